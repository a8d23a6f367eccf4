"""Pruning by magnitude (Han et al., 2015): the smallest weights go, the others are fine-tuned."""

from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from dlcore.errors import UsageError
from dlcore.optim import groups as groups_lib
from dlcore.optim.builder import decay_mask


class PruningState(NamedTuple):
    """The number of updates so far, int32 scalar, and which weights are kept, booleans."""

    step: jax.Array
    kept: Any


def prune_by_magnitude(
    fraction: float, step: int, groups: str = ""
) -> optax.GradientTransformation:
    """Sets the smallest weights to zero at one update, and keeps them there.

    It belongs at the end of a chain, after the learning rate, because it replaces the update: a
    pruned weight moves by minus its value, so that it is exactly zero. All weights are ranked
    together, so that a small layer of large weights, such as a first convolution, loses few.
    Biases, the scales of normalization (`builder.decay_mask`) and frozen parameters stay, and do
    not count in the fraction; nor does what is 0 already, as the missing weights of a masked layer.

    Args:
      fraction: share of the weights that goes, rounded to a whole number, in (0, 1). Of equal
        magnitudes, the last go first.
      step: the number of updates before the one that prunes, at least 0.
      groups: the recipe's groups of parameters, some of which may be frozen.

    Raises:
      UsageError: a number is out of its range, or the groups do not parse.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"prune_fraction={fraction}: it must be above 0 and below 1")
    if step < 0:
        raise UsageError(f"step={step}: pruning happens after at least 0 updates")
    parsed = groups_lib.parse(groups)

    def prunable(params: Any) -> Any:
        return jax.tree.map(
            lambda decays, frozen: decays and not frozen,
            decay_mask(params),
            groups_lib.frozen_mask(parsed, params),
        )

    def init(params: Any) -> PruningState:
        kept = jax.tree.map(lambda param: jnp.ones(param.shape, bool), params)
        return PruningState(jnp.zeros((), jnp.int32), kept)

    def update(updates: Any, state: PruningState, params: Any = None) -> tuple[Any, PruningState]:
        kept = jax.lax.cond(
            state.step == step,
            lambda: _largest(params, fraction),
            lambda: state.kept,
        )
        updates = jax.tree.map(
            lambda keep, update, param: jnp.where(keep, update, -param), kept, updates, params
        )
        return updates, PruningState(state.step + 1, kept)

    return optax.masked(optax.GradientTransformation(init, update), prunable)


def _largest(params: Any, fraction: float) -> Any:
    """Which elements stay, booleans shaped as the parameters."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    count = jnp.count_nonzero(flat)
    kept = count - jnp.round(fraction * count).astype(int)
    order = jnp.argsort(-jnp.abs(flat), stable=True)
    places = jnp.arange(flat.size)
    # What is 0 is last in the order. It stays as free as it was.
    stays = (places < kept) | (places >= count)
    marked = unravel(jnp.zeros_like(flat).at[order].set(stays.astype(flat.dtype)))
    return jax.tree.map(lambda mark: mark > 0, marked)
