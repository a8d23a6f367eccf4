"""The Hopfield network against its definitions in NumPy, and the law of its energy."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dlcore.nn import hopfield

UNITS = 7
SIGNS = st.sampled_from([-1.0, 1.0])
STATES = npst.arrays(np.float32, (3, UNITS), elements=SIGNS)
ORDERS = st.permutations(range(UNITS)).map(np.array)
sweep, recall = jax.jit(hopfield.sweep), jax.jit(hopfield.recall)


@st.composite
def symmetric(draw):
    """Whole symmetric weights with a diagonal of zeros, of Hebb's rule or of none."""
    drawn = draw(npst.arrays(np.float32, (UNITS, UNITS), elements=st.integers(-9, 9)))
    upper = np.triu(drawn, 1)
    return upper + upper.T


def energies(weights, states):
    rows, columns = np.triu_indices(UNITS, 1)
    return [-(weights[rows, columns] * s[rows] * s[columns]).sum() for s in states]


@given(STATES)
def test_hebb_s_rule_counts_how_often_two_units_agree(patterns):
    agree = (patterns[:, :, None] == patterns[:, None, :]).sum(0)
    expected = 2 * agree - len(patterns)
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(hopfield.store(jnp.asarray(patterns)), expected)


@given(symmetric(), STATES)
def test_the_energy_is_minus_the_sum_over_pairs(weights, states):
    values = hopfield.energy(jnp.asarray(weights), jnp.asarray(states))
    np.testing.assert_array_equal(values, energies(weights, states))


@given(symmetric(), STATES, ORDERS)
def test_no_update_ever_raises_the_energy_and_a_unit_that_flips_lowers_it(weights, states, order):
    before = np.asarray(states)
    for unit in order:
        after = np.asarray(sweep(weights, before, np.array([unit])))
        assert (np.delete(after, unit, axis=1) == np.delete(before, unit, axis=1)).all()
        fall = np.subtract(energies(weights, before), energies(weights, after))
        flipped = (after != before).any(1)
        assert (fall[flipped] > 0).all()
        assert (fall[~flipped] == 0).all()
        before = after
    np.testing.assert_array_equal(before, sweep(weights, states, order))


@given(symmetric(), STATES, st.integers(0, 2**31))
def test_recall_settles_where_every_unit_agrees_with_its_input(weights, states, seed):
    settled, done = recall(weights, states, jax.random.key(seed))
    assert bool(done)
    inputs = np.asarray(settled, np.float64) @ weights
    assert (inputs * np.asarray(settled) >= 0).all()


def test_a_pattern_and_its_negative_are_recalled_from_a_damaged_copy():
    random = np.random.default_rng(0)
    patterns = random.choice([-1.0, 1.0], (3, 64)).astype(np.float32)
    damaged = np.concatenate([patterns, -patterns])
    for state in damaged:
        state[random.choice(64, 10, replace=False)] *= -1
    weights = hopfield.store(jnp.asarray(patterns))
    settled, done = recall(weights, damaged, jax.random.key(0))
    assert bool(done)
    np.testing.assert_array_equal(settled, np.concatenate([patterns, -patterns]))


def test_recall_says_so_when_it_had_to_stop_before_the_units_settled():
    weights = hopfield.store(jnp.ones((1, UNITS)))
    state = jnp.ones((1, UNITS)).at[0, :3].set(-1.0)
    _, done = hopfield.recall(weights, state, jax.random.key(0), max_sweeps=1)
    assert not bool(done)
