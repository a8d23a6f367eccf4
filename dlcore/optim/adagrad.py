"""AdaGrad's rates, set by the loss's gradient alone (Duchi et al., 2011)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class GradientHistoryState(NamedTuple):
    """The state of `scale_by_gradient_history`.

    Attributes:
      sum_of_squares: sum of the squares of all gradients so far, shaped as the parameters.
      added: state of what is added to the gradient.
    """

    sum_of_squares: Any
    added: Any


def scale_by_gradient_history(
    added: optax.GradientTransformation, epsilon: float
) -> optax.GradientTransformation:
    """Divides `added(g)` by `sqrt(sum of g^2 so far + epsilon)`.

    With `optax.scale_by_rss` after `added`, noise and decay would slow down the weights that they
    move; here a weight's rate depends on the gradient of the loss alone, as in AdaGrad's equation.
    A weight that never had a gradient (of a dead unit) is moved by noise and decay at the rate
    `1 / sqrt(epsilon)`: with noise, epsilon should not be far below the squares of the gradients.

    Args:
      added: what is added to the gradient: noise, decay.
      epsilon: keeps the rates finite, above 0.
    """

    def init(params: Any) -> GradientHistoryState:
        return GradientHistoryState(optax.tree.zeros_like(params), added.init(params))

    def update(
        updates: Any, state: GradientHistoryState, params: Any = None
    ) -> tuple[Any, GradientHistoryState]:
        total = jax.tree.map(lambda s, g: s + jnp.square(g), state.sum_of_squares, updates)
        updates, added_state = added.update(updates, state.added, params)
        scaled = jax.tree.map(lambda g, s: g / jnp.sqrt(s + epsilon), updates, total)
        return scaled, GradientHistoryState(total, added_state)

    return optax.GradientTransformation(init, update)
