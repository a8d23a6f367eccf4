"""What image networks share besides layers: stages by name, precision, rematerialization, sizes.

A network names what later work reads from it: `stage(self, "stage2", x)` hands x on and, where it
is asked for, out. The last result of a resolution is called "stage1", "stage2", ... from the image
on, what stands before the first of them "stem", and the vector that the classifier reads "pooled".
`collect` gives them by these names, so that detectors, segmenters, style transfer and classifiers
of features are built on any network without touching it.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.errors import UsageError

# Linen's own collection for what is looked at: `init` leaves it out, and so does the state.
_COLLECTION = "intermediates"

DTYPES = ("float32", "bfloat16")


def stage(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Hands x on, and lets `collect` find it under that name.

    Args:
      module: the whole network, in its `__call__`.
      name: of the stage.
      x: its result.
    """
    module.sow(_COLLECTION, name, x, init_fn=lambda: None, reduce_fn=lambda _, new: new)
    return x


def collect(
    model: nn.Module, variables: Mapping[str, Any], *inputs: Any, train: bool = False
) -> tuple[Any, dict[str, jax.Array]]:
    """A model's outputs, and the result of each of its stages by name.

    Only what is read is computed, where the caller compiles. The shapes of the stages cost nothing:
    `jax.eval_shape(functools.partial(collect, model), variables, images)`.

    Args:
      model: that names its stages.
      variables: of the model; with `train` set, statistics that move are not handed back.
      inputs: of its `__call__`.
      train: the mode.
    """
    kept = [name for name in variables if name != "params"] if train else []
    outputs, after = model.apply(variables, *inputs, train=train, mutable=[_COLLECTION, *kept])
    own = after.get(_COLLECTION, {})
    # Layers within may sow, too: theirs are trees of their own.
    return outputs, {name: x for name, x in own.items() if isinstance(x, jax.Array)}


def computing_in(dtype: str, x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """The inputs in the precision that a network's layers are to have.

    Raises:
      UsageError: there is no such dtype.
    """
    if dtype not in DTYPES:
        raise UsageError(f"a network computes in {' or '.join(DTYPES)}, not {dtype!r}")
    return jnp.asarray(x, dtype)


def block(module: type[nn.Module], rematerialize: bool) -> Any:
    """A class of blocks, called as `block(x, train)`; its insides are not kept if so wanted.

    They are computed again on the way back: a network's memory is then that of its blocks' inputs.
    """
    # The module itself is the first argument.
    return nn.remat(module, static_argnums=(2,)) if rematerialize else module


def require_size(x: jax.Array, least: int, name: str) -> None:
    """Refuses images of which nothing would be left.

    Raises:
      UsageError: an image's height or width is below `least` pixels.
    """
    height, width = x.shape[1:3]
    if min(height, width) < least:
        raise UsageError(f"{name} takes images of {least}x{least} or more, not {height}x{width}")
