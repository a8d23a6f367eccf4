"""An optimizer at work on a function: where it ends, or its path step by step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def random_start(shapes: Any, generator: np.random.Generator) -> Any:
    """Parameters to start from: kernels of variance 1 / fan-in, biases of 0.

    NumPy draws them: compiling a model's own initialization would take longer than everything else
    that a study does with a small network.

    Args:
      shapes: shapes and dtypes of the parameters.
      generator: draws them.
    """

    def draw(leaf: Any) -> np.ndarray:
        if len(leaf.shape) < 2:
            return np.zeros(leaf.shape, leaf.dtype)
        kernel = generator.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return kernel.astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


def descend(
    optimizer: optax.GradientTransformation,
    gradient: Callable[[Any, Any], Any],
    start: Any,
    inputs: Any,
) -> Any:
    """The parameters at the end of a descent; for use under `jax.jit`.

    Args:
      optimizer: as `dlcore.optim.builder` builds it, or one of Optax.
      gradient: `(parameters, input) -> gradient`.
      start: the parameters before the first step.
      inputs: of the gradient (batches, keys), a step each along the first axis.
    """

    def step(state: tuple[Any, optax.OptState], own: Any) -> tuple[Any, None]:
        return _advance(optimizer, gradient, state, own), None

    return jax.lax.scan(step, (start, optimizer.init(start)), inputs)[0][0]


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

    def step(state: tuple[Any, optax.OptState], own: jax.Array) -> tuple[Any, jax.Array]:
        state = _advance(optimizer, gradient, state, own)
        return state, state[0]

    began = jnp.asarray(start)
    _, path = jax.lax.scan(step, (began, optimizer.init(began)), jnp.arange(steps))
    return np.concatenate([np.asarray(start)[None], np.asarray(path)])


def _advance(
    optimizer: optax.GradientTransformation,
    gradient: Callable[[Any, Any], Any],
    state: tuple[Any, optax.OptState],
    own: Any,
) -> tuple[Any, optax.OptState]:
    parameters, memory = state
    updates, memory = optimizer.update(gradient(parameters, own), memory, parameters)
    return optax.apply_updates(parameters, updates), memory
