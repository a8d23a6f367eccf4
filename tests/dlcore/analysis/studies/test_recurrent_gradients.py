"""Gradients over time against back-propagation written out in NumPy, and against closed forms."""

import jax
import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.nn.recurrent import RNNCell

_SMALL = {"hidden": 8, "steps": 6, "updates": 3}


@pytest.fixture(scope="module")
def numbers():
    return studies.create("recurrent_gradients", **_SMALL, shrinking=0.5, growing=2.0).run()


def test_gradients_of_a_linear_recurrence_are_powers_of_its_factor(numbers):
    np.testing.assert_allclose(numbers["linear_shrinking_norms"], 0.5 ** np.arange(7), rtol=1e-5)
    np.testing.assert_allclose(numbers["linear_growing_norms"], 2.0 ** np.arange(7), rtol=1e-5)


def test_gradients_of_the_vanilla_network_are_those_of_back_propagation_written_out(numbers):
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (6, 1, 4))
    direction = np.asarray(jax.random.normal(keys[1], (8,)), np.float64)
    cell = RNNCell(8)
    params = cell.init(keys[2], cell.initial_carry(1), inputs[0])["params"]
    of_input = np.asarray(params["input_kernel"], np.float64)
    of_state = 0.5 * np.asarray(params["recurrent_kernel"], np.float64)
    states = [np.zeros(8)]
    for x in np.asarray(inputs[:, 0], np.float64):
        states.append(np.tanh(x @ of_input + states[-1] @ of_state))
    gradient = direction / np.linalg.norm(direction)
    expected = [1.0]
    for state in reversed(states[1:]):
        gradient = of_state @ (gradient * (1 - state**2))
        expected.append(np.linalg.norm(gradient))
    np.testing.assert_allclose(numbers["rnn_shrinking_norms"], expected, rtol=1e-4)


def test_a_memory_whose_gate_is_biased_open_keeps_more_gradient(numbers):
    assert numbers["memory_error"] < 1e-4
    assert numbers["lstm_remembering_norms"][-1] > 10 * numbers["lstm_norms"][-1]


def test_no_update_is_longer_than_clipping_allows(numbers):
    # The rate falls linearly over the three updates.
    limits = 0.002 * np.array([1, 2 / 3, 1 / 3])
    assert (numbers["update_norms_before_clipping"] > limits).all()
    np.testing.assert_allclose(numbers["clipped_update_norms"], limits, rtol=1e-4)
