"""The path of an optimizer over a function, step by step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax


def trajectory(
    optimizer: optax.GradientTransformation,
    gradient: Callable[[jax.Array, jax.Array], jax.Array],
    start: np.ndarray,
    steps: int,
) -> np.ndarray:
    """Where an optimizer goes.

    Args:
      optimizer: as `dlcore.optim.builder` builds it.
      gradient: `(parameters, step) -> gradient`, both shaped as `start`.
      start: the parameters before the first step.
      steps: how many steps to take, at least 1.

    Returns:
      The parameters before the first step and after each, `[steps + 1, *start.shape]`.
    """

    def advance(
        state: tuple[jax.Array, optax.OptState], step: jax.Array
    ) -> tuple[tuple[jax.Array, optax.OptState], jax.Array]:
        parameters, memory = state
        updates, memory = optimizer.update(gradient(parameters, step), memory, parameters)
        parameters = optax.apply_updates(parameters, updates)
        return (parameters, memory), parameters

    began = jnp.asarray(start)
    _, path = jax.lax.scan(advance, (began, optimizer.init(began)), jnp.arange(steps))
    return np.concatenate([np.asarray(start)[None], np.asarray(path)])
