"""Units against truth tables, distances by NumPy, and the laws that they obey."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, settings

from dlcore.nn.units import (
    LOGIC_GATES,
    collapse,
    gaussian_rbf,
    norm_excitation,
    squared_distances,
    threshold_network,
    threshold_units,
    with_constant_input,
)


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("gate", "truth"),
    [
        ("and", lambda a, b: a and b),
        ("or", lambda a, b: a or b),
        ("nor", lambda a, b: not (a or b)),
        ("xor", lambda a, b: a != b),
    ],
)
def test_a_network_of_threshold_units_computes_its_gate(gate, truth):
    corners = list(itertools.product((False, True), repeat=2))
    answers = threshold_network(jnp.array(corners, jnp.float32), LOGIC_GATES[gate])
    np.testing.assert_array_equal(answers[:, 0], [truth(*corner) for corner in corners])


def test_xor_takes_two_layers_and_the_others_one():
    depths = {gate: len(network) for gate, network in LOGIC_GATES.items()}
    assert depths == {"and": 1, "or": 1, "nor": 1, "xor": 2}


def test_a_threshold_unit_fires_from_its_threshold_on():
    weights, thresholds = jnp.array([[1.0], [1.0]]), jnp.array([2.0])
    answers = threshold_units(jnp.array([[0.5, 1.4], [1.0, 1.0], [3.0, 0.0]]), weights, thresholds)
    np.testing.assert_array_equal(answers[:, 0], [0, 1, 1])


def test_an_inhibitory_input_vetoes_all_excitatory_ones():
    # The rule of 1943, by a weight: the last of four inputs inhibits.
    weights, thresholds = jnp.array([[1.0], [1], [1], [-3]]), jnp.array([1.0])
    inputs = np.array(list(itertools.product((0, 1), repeat=4)), np.float32)
    fires = inputs[:, :3].any(1) & (inputs[:, 3] == 0)
    answers = threshold_units(jnp.asarray(inputs), weights, thresholds)
    np.testing.assert_array_equal(answers[:, 0], fires)


@pytest.mark.parametrize("constant", [1.0, -1.0])
def test_the_weight_of_a_constant_input_is_a_bias(constant):
    x, weights, bias = drawn(2, 5, 3), drawn(3, 4, seed=1), drawn(1, 4, seed=2)
    extended = with_constant_input(x, constant) @ jnp.concatenate([weights, constant * bias])
    np.testing.assert_allclose(extended, x @ weights + bias, atol=1e-6)


def test_norm_excitation_is_the_norm_of_the_weighted_inputs():
    x, weights = np.float64(drawn(2, 5, 3)), np.float64(drawn(3, 4, seed=1))
    expected = np.linalg.norm(x[..., :, None] * weights, axis=-2)
    ours = norm_excitation(jnp.float32(x), jnp.float32(weights))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@given(scale=st.floats(2**-10, 2**10, width=32), sign=st.sampled_from([-1, 0, 1]))
@settings(max_examples=25)
def test_norm_excitation_is_homogeneous_and_blind_to_signs(scale, sign):
    x, weights = drawn(5, 3), drawn(3, 4, seed=1)
    scaled = norm_excitation(sign * scale * x, weights)
    expected = abs(sign) * scale * norm_excitation(x, weights)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)


def test_the_gradient_of_norm_excitation_is_finite_at_the_origin():
    weights = drawn(3, 2, seed=1)
    gradient = jax.grad(lambda x: norm_excitation(x, weights).sum())
    np.testing.assert_array_equal(gradient(jnp.zeros(3)), np.zeros(3))
    # Elsewhere it is that of the norm.
    x = np.float64(drawn(3))
    squares = np.square(np.float64(weights))
    expected = (x[:, None] * squares / np.sqrt(np.square(x) @ squares)).sum(1)
    np.testing.assert_allclose(gradient(jnp.float32(x)), expected, rtol=1e-5)


def test_squared_distances_are_those_of_scipy():
    x, centers = drawn(5, 3), drawn(4, 3, seed=1)
    expected = scipy.spatial.distance.cdist(x, centers, "sqeuclidean")
    np.testing.assert_allclose(squared_distances(x, centers), expected, rtol=1e-5)


def test_a_gaussian_unit_is_one_at_its_center_and_the_normal_density_around_it():
    centers = drawn(4, 3, seed=1)
    np.testing.assert_allclose(jnp.diag(gaussian_rbf(centers, centers, 0.7)), np.ones(4))
    x = drawn(5, 3)
    densities = [scipy.stats.multivariate_normal(c, 0.7**2 * np.eye(3)) for c in centers]
    expected = np.stack([density.pdf(x) / density.pdf(density.mean) for density in densities], 1)
    np.testing.assert_allclose(gaussian_rbf(x, centers, 0.7), expected, rtol=1e-4)


@given(
    sizes=st.sampled_from([(3, 2), (1, 4, 1), (3, 5, 2, 4), (2, 2, 2, 2, 2, 2)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=15)
def test_a_stack_of_linear_layers_is_the_one_that_it_collapses_to(sizes, seed):
    rng = np.random.default_rng(seed)
    shapes = list(itertools.pairwise(sizes))
    layers = [(rng.normal(size=shape), rng.normal(size=shape[1])) for shape in shapes]
    x = rng.normal(size=(3, sizes[0]))
    expected = x
    for kernel, bias in layers:
        expected = expected @ kernel + bias
    kernel, bias = collapse([(jnp.float32(k), jnp.float32(b)) for k, b in layers])
    np.testing.assert_allclose(x @ kernel + bias, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_norm_and_its_gradient_are_right_where_squares_leave_the_range_of_floats(scale):
    x, weights = jnp.array([3.0, 4.0]), jnp.array([[1.0], [2.0]])
    value, gradient = jax.value_and_grad(lambda x: norm_excitation(x, weights)[0])(scale * x)
    assert float(value) == pytest.approx(scale * 73**0.5, rel=1e-6)
    np.testing.assert_allclose(gradient, np.array([3, 16]) / 73**0.5, rtol=1e-6)
    by_weights = jax.grad(lambda w: norm_excitation(x, w)[0])(scale * weights)
    np.testing.assert_allclose(by_weights[:, 0], np.array([9, 32]) / 73**0.5, rtol=1e-6)
