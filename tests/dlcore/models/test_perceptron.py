"""The perceptron's units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.models.perceptron import respond


def test_two_classes_take_one_unit_and_more_take_one_each():
    inputs = jax.ShapeDtypeStruct((5, 3), jnp.float32)
    for num_classes, units in ((2, 1), (3, 3), (10, 10)):
        model = models.create("perceptron", num_classes=num_classes)
        weights = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]["weights"]
        assert weights.shape == (4, units)


def test_the_last_weight_belongs_to_a_constant_input():
    model = models.create("perceptron", num_classes=2)
    params = {"weights": jnp.array([[2.0], [-1.0], [0.5]])}
    sums = model.apply({"params": params}, jnp.array([[[3.0], [4.0]], [[0.0], [0.0]]]))
    np.testing.assert_allclose(sums, [[2.5], [0.5]])


def test_one_unit_fires_above_zero_and_not_at_it():
    np.testing.assert_array_equal(respond(jnp.array([[-1.0], [0.0], [1e-6]])), [[0], [0], [1]])


def test_of_several_units_the_one_with_the_largest_sum_fires():
    answers = respond(jnp.array([[-3.0, -1.0, -2.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(answers, [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("weights", "answers"),
    [
        # McCulloch and Pitts (1943): the last weight is the threshold's negative.
        ([1, 1, -1.5], [0, 0, 0, 1]),  # AND
        ([1, 1, -0.5], [0, 1, 1, 1]),  # OR
        ([-1, -1, 0.5], [1, 0, 0, 0]),  # NOR
    ],
)
def test_one_unit_computes_the_classic_gates(weights, answers):
    points = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    model = models.create("perceptron", num_classes=2)
    sums = model.apply({"params": {"weights": jnp.array(weights)[:, None]}}, points)
    np.testing.assert_array_equal(respond(sums)[:, 0], answers)
