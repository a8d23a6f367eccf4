"""The fit of one hidden layer: its derivatives, and what it finds again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcore.analysis.least_squares import (
    HiddenLayer,
    grown,
    levenberg_marquardt,
    random_network,
)


def drawn(seed, inputs=2, width=3):
    generator = np.random.default_rng(seed)
    x = generator.uniform(size=(40, inputs))
    parts = (generator.standard_normal(shape) for shape in ((inputs, width), width, width + 1))
    return x, HiddenLayer(*parts), generator


@given(st.integers(0, 2**31))
def test_the_jacobian_is_the_limit_of_differences(seed):
    x, network, generator = drawn(seed)
    step = generator.standard_normal(network.jacobian(x).shape[1])
    near = 1e-5
    difference = (network.moved(near * step)(x) - network.moved(-near * step)(x)) / (2 * near)
    np.testing.assert_allclose(network.jacobian(x) @ step, difference, rtol=1e-5, atol=1e-7)


def test_a_fit_finds_the_network_that_made_its_targets():
    x, teacher, generator = drawn(0)
    start = teacher.moved(0.3 * generator.standard_normal(teacher.jacobian(x).shape[1]))
    assert np.abs(start(x) - teacher(x)).max() > 0.1
    fitted = levenberg_marquardt(start, x, teacher(x), 400)
    assert np.abs(fitted(x) - teacher(x)).max() < 1e-7


@given(st.integers(0, 2**31))
def test_every_iteration_leaves_the_error_where_it_was_or_lowers_it(seed):
    x, network, generator = drawn(seed)
    y = generator.standard_normal(len(x))
    errors = [
        np.square(levenberg_marquardt(network, x, y, iterations)(x) - y).sum()
        for iterations in range(6)
    ]
    assert (np.diff(errors) <= 0).all()
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("inputs", [1, 2])
def test_a_random_network_s_units_turn_over_inside_the_cube(inputs):
    x, _, generator = drawn(1, inputs)
    network = random_network(x, x[:, 0], 50, generator)
    # A unit is 0 on a plane that meets the cube: it has both signs on the cube's corners.
    corners = np.stack(np.meshgrid(*[[0, 1]] * inputs), -1).reshape(-1, inputs)
    signs = np.sign(corners @ network.kernel + network.bias)
    assert (signs.min(0) < signs.max(0)).all()
    # Their output is fitted: no linear change of it is better.
    residual = network(x) - x[:, 0]
    assert np.abs(network.features(x).T @ residual).max() < 1e-3


def test_a_grown_network_is_wider_and_the_same_function():
    x, network, _ = drawn(0)
    _, wider, _ = drawn(1, width=5)
    result = grown(network, wider)
    assert result.bias.size == 5
    np.testing.assert_allclose(result(x), network(x), rtol=1e-13)
    np.testing.assert_array_equal(result.kernel[:, 3:], wider.kernel[:, 3:])
