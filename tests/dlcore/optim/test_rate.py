"""The learning rate that a training may lower, against Optax's own and drops by a schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcore.optim import builder, rate

PARAMS = {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float32)}
GRADIENTS = jax.tree.map(lambda array: np.cos(array) + 0.1, PARAMS)
DROP = 3


def halving(step):
    return 0.1 * 0.5 ** (step / 4)


def assert_close(one, two, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, two)


def test_as_long_as_nobody_touches_it_it_is_the_rate_of_optax():
    ours, theirs = rate.scale_by_learning_rate(halving), optax.scale_by_learning_rate(halving)
    state, their_state = ours.init(PARAMS), theirs.init(PARAMS)
    for _ in range(3):
        updates, state = ours.update(GRADIENTS, state)
        expected, their_state = theirs.update(GRADIENTS, their_state)
        assert_close(updates, expected, rtol=1e-7)


@pytest.mark.parametrize("name", builder.NAMES)
def test_lowered_after_some_steps_it_goes_on_like_a_schedule_that_drops_there(name):
    # Wherever the rate stands in a rule: outside a velocity, inside it, or on decoupled decay.
    lowered = builder.build(name, optax.constant_schedule(0.1))
    dropping = builder.build(name, optax.piecewise_constant_schedule(0.1, {DROP: 0.25}))
    (one, two), states = (PARAMS, PARAMS), [lowered.init(PARAMS), dropping.init(PARAMS)]
    for step in range(DROP + 3):
        if step == DROP:
            states[0] = rate.rescale(states[0], 0.25)
        updates, states[0] = lowered.update(jax.tree.map(jnp.cos, one), states[0], one)
        one = optax.apply_updates(one, updates)
        updates, states[1] = dropping.update(jax.tree.map(jnp.cos, two), states[1], two)
        two = optax.apply_updates(two, updates)
        assert_close(one, two, rtol=1e-5, atol=1e-6)


def advanced(steps, multiplier):
    """The state of momentum after some steps with a rate that was lowered."""
    optimizer = builder.build("momentum", halving)
    state = rate.rescale(optimizer.init(PARAMS), multiplier)
    for _ in range(steps):
        _, state = optimizer.update(GRADIENTS, state, PARAMS)
    return state


def test_the_rate_that_comes_next_is_the_schedules_times_the_factor():
    state = rate.rescale(rate.rescale(advanced(0, 0.5), 0.5), 0.1)
    assert float(rate.learning_rate(state, halving)) == pytest.approx(0.1 * 0.025)
    assert float(rate.learning_rate(advanced(4, 0.5), halving)) == pytest.approx(0.05 * 0.5)


def test_the_factor_of_another_state_is_taken_and_nothing_else_of_it():
    earlier, now = advanced(2, 1.0), advanced(5, 0.25)
    mixed = rate.with_factor_of(earlier, now)
    assert float(rate.learning_rate(mixed, halving)) == pytest.approx(halving(2) * 0.25)
    assert_close(optax.tree.get(mixed, "trace"), optax.tree.get(earlier, "trace"))
    assert jax.tree.structure(mixed) == jax.tree.structure(earlier)


def test_of_several_players_every_rate_is_lowered():
    players = {"discriminator": advanced(1, 1.0), "generator": advanced(4, 1.0)}
    lowered = rate.rescale(players, 0.5)
    rates = [float(rate.learning_rate(state, halving)) for state in lowered.values()]
    assert rates == pytest.approx([halving(1) / 2, halving(4) / 2])
    assert float(rate.learning_rate(lowered, halving)) == pytest.approx(rates[0])
