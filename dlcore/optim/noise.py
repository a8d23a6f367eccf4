"""Annealed gradient noise (Neelakantan et al., 2015)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class NoiseState(NamedTuple):
    """The number of updates so far, int32 scalar."""

    step: jax.Array


def add_gradient_noise(
    deviation: float, decay: float, seed: int, stream: int = 0
) -> optax.GradientTransformation:
    """Adds Gaussian noise that fades to every gradient (Neelakantan et al., 2015, equation 1).

    The paper writes the variance at step t as `eta / (1 + t) ** gamma`, deck D writes its root as
    `sigma0 / (1 + t) ** kappa`: `sigma0 = sqrt(eta)` and `kappa = gamma / 2`.

    The noise is a function of (seed, stream, step). `optax.add_noise` carries a random key in its
    state instead, and a checkpoint should hold plain numbers only.

    Args:
      deviation: sigma0, the noise's standard deviation at step 0.
      decay: kappa; at step t the standard deviation is `deviation / (1 + t) ** decay`.
      seed: seed of the noise.
      stream: number of an independent sequence under the same seed, for one group of parameters.
    """

    def root() -> jax.Array:
        key = jax.random.key(seed)
        # Steps are folded in from 0 upwards, streams from the largest number downwards.
        return jax.random.fold_in(key, np.uint32(2**32 - stream)) if stream else key

    def init(params: Any) -> NoiseState:
        del params
        return NoiseState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: NoiseState, params: Any = None) -> tuple[Any, NoiseState]:
        del params
        scale = deviation / (1.0 + state.step) ** decay
        leaves, structure = jax.tree.flatten(updates)
        keys = jax.random.split(jax.random.fold_in(root(), state.step), len(leaves))
        noisy = [
            leaf + scale.astype(leaf.dtype) * jax.random.normal(key, leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, noisy), NoiseState(state.step + 1)

    return optax.GradientTransformation(init, update)
