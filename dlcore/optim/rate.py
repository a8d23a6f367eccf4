"""The learning rate, in a form that a training can lower while it runs.

A schedule fixes the rate of every step beforehand. A rule that reacts to the training (the drop
when the validation error stalls, of He et al., 2016, section 4.2) needs a number in the optimizer's
state instead: a factor, 1 at first, that multiplies the schedule's rate. So the factor is
checkpointed with the rest, and the compiled step reads it.

An optimizer with groups of parameters has a `RateState` for each group, with the same step and the
same factor; a group's own factor is part of its schedule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class RateState(NamedTuple):
    """The number of updates so far, int32 scalar, and what multiplies the rate, a scalar."""

    step: jax.Array
    factor: jax.Array


def scale_by_learning_rate(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Multiplies updates by minus the learning rate: the schedule's, times the state's factor.

    With a factor of 1 it is `optax.scale_by_learning_rate(schedule)`.
    """

    def init(params: Any) -> RateState:
        del params
        return RateState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32))

    def update(updates: Any, state: RateState, params: Any = None) -> tuple[Any, RateState]:
        del params
        rate = _scaled(schedule, state)
        updates = jax.tree.map(lambda one: -jnp.asarray(rate, one.dtype) * one, updates)
        return updates, state._replace(step=state.step + 1)

    return optax.GradientTransformation(init, update)


def learning_rate(opt_state: Any, schedule: optax.Schedule) -> jax.Array:
    """The rate of the next update, before the factors of groups; of several players, the first."""
    states = jax.tree.leaves(opt_state, is_leaf=_is_rate)
    state = next(state for state in states if _is_rate(state))
    return _scaled(schedule, state)


def _scaled(schedule: optax.Schedule, state: RateState) -> jax.Array:
    # In the type of the schedule: the factor, which is of 32 bits, takes no digits away.
    scheduled = jnp.asarray(schedule(state.step))
    return scheduled * state.factor.astype(scheduled.dtype)


def rescale(opt_state: Any, multiplier: float) -> Any:
    """The optimizer's state with the learning rates of all groups multiplied from now on."""
    return _replace(lambda state: state._replace(factor=state.factor * multiplier), opt_state)


def with_factor_of(opt_state: Any, other: Any) -> Any:
    """The optimizer's state with the learning rate's factor of another state of its own."""
    return _replace(lambda state, now: state._replace(factor=now.factor), opt_state, other)


def _is_rate(node: Any) -> bool:
    return isinstance(node, RateState)


def _replace(change: Callable[..., RateState], *opt_states: Any) -> Any:
    def replace(node: Any, *others: Any) -> Any:
        return change(node, *others) if _is_rate(node) else node

    return jax.tree.map(replace, *opt_states, is_leaf=_is_rate)
