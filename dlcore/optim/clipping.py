"""Clipping at a threshold that the training finds by itself (Pascanu et al., 2013)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AverageNormState(NamedTuple):
    """What is known of the gradients so far.

    Attributes:
      step: number of gradients, int32 scalar.
      mean: mean of their norms before clipping, float32 scalar.
    """

    step: jax.Array
    mean: jax.Array


def clip_by_average_norm(factor: float) -> optax.GradientTransformation:
    """Scales a gradient down to `factor` times the mean norm of all gradients before it.

    Pascanu, Mikolov and Bengio (2013), section 3.2, suggest choosing the threshold of their
    algorithm 1 by the average norm over many updates, and found half to ten times that norm to
    work. The norms are those before clipping (otherwise a factor below 1 would lower its own
    threshold until nothing moves); the first gradient has no predecessors and is left alone.

    Args:
      factor: the threshold in units of the mean norm, above 0.
    """

    def init(params: Any) -> AverageNormState:
        del params
        return AverageNormState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))

    def update(
        updates: Any, state: AverageNormState, params: Any = None
    ) -> tuple[Any, AverageNormState]:
        del params
        norm = optax.tree.norm(updates)
        threshold = jnp.where(state.step == 0, jnp.inf, factor * state.mean)
        scale = jnp.where(norm > threshold, threshold / norm, 1.0)
        clipped = jax.tree.map(lambda leaf: scale.astype(leaf.dtype) * leaf, updates)
        step = state.step + 1
        mean = state.mean + (norm.astype(jnp.float32) - state.mean) / step
        return clipped, AverageNormState(step, mean)

    return optax.GradientTransformation(init, update)
