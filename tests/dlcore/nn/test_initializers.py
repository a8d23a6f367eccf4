"""Initializers against the distributions their papers state."""

import functools

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings

from dlcore.errors import UsageError
from dlcore.nn.initializers import initializer, orthogonal, uniform_by_fan_in

# A 3x3 convolution from 20 to 90 channels: its fan-in is 180, its fan-out 810.
KERNEL = (3, 3, 20, 90)


def normal(deviation):
    return scipy.stats.norm(scale=deviation)


def uniform(bound):
    return scipy.stats.uniform(-bound, 2 * bound)


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("small_uniform", uniform(0.01)),
        ("small_uniform:0.1", uniform(0.1)),
        ("small_normal", normal(0.01)),
        ("small_normal:0.2", normal(0.2)),
        # The uniform ones as D has them: between -sqrt(3) sigma and sqrt(3) sigma.
        ("xavier", normal(180**-0.5)),
        ("xavier:uniform", uniform((3 / 180) ** 0.5)),
        ("glorot:normal", normal((2 / 990) ** 0.5)),
        ("glorot:uniform", uniform((6 / 990) ** 0.5)),
        ("he", normal((2 / 180) ** 0.5)),
        ("he:uniform", uniform((6 / 180) ** 0.5)),
        # Kumar (2017), section 5: 3.6 / sqrt(N) for the sigmoid, which is sqrt(12.8), and
        # 1 / sqrt(N) for tanh.
        ("kumar:sigmoid", normal((12.8 / 180) ** 0.5)),
        ("kumar:tanh", normal(180**-0.5)),
        # g(0) = 1/2 and g'(0) = 3/4.
        ("kumar:sigmoid:3", normal((1 / (180 * 0.75**2 * 1.25)) ** 0.5)),
    ],
)
def test_a_rule_draws_from_the_distribution_that_its_source_states(name, distribution):
    draws = np.asarray(initializer(name)(jax.random.key(0), KERNEL)).ravel()
    assert scipy.stats.kstest(draws, distribution.cdf).pvalue > 0.01
    # The test's eye is sharp enough to tell 5 % in scale apart.
    assert scipy.stats.kstest(1.05 * draws, distribution.cdf).pvalue < 1e-3


def test_uniform_by_fan_in_is_uniform_between_its_bounds():
    draws = np.asarray(uniform_by_fan_in(25)(jax.random.key(0), (5, 5, 1, 200)))
    assert scipy.stats.kstest(draws.ravel(), "uniform", (-2.4 / 25, 4.8 / 25)).pvalue > 0.01


def test_uniform_by_fan_in_bounds_each_unit_by_its_own_fan_in():
    fan_in = np.array([10, 100, 1000])
    draws = np.asarray(uniform_by_fan_in(fan_in)(jax.random.key(1), (2000, 3)))
    np.testing.assert_array_less(np.abs(draws).max(0), 2.4 / fan_in)
    assert draws.std(0) == pytest.approx(2.4 / fan_in / np.sqrt(3), rel=0.05)


@given(
    shape=st.sampled_from([(6, 6), (3, 3, 2, 7), (2, 2, 2, 11), (5, 1)]),
    gain=st.sampled_from([0.5, 1.0, 2.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15)
def test_the_shorter_side_of_an_orthogonal_kernel_is_orthonormal(shape, gain, seed):
    kernel = np.float64(orthogonal(gain)(jax.random.key(seed), shape)).reshape(-1, shape[-1])
    short = kernel if kernel.shape[0] >= kernel.shape[1] else kernel.T
    np.testing.assert_allclose(short.T @ short, gain**2 * np.eye(short.shape[1]), atol=1e-5)


def test_an_orthogonal_kernel_is_of_the_singular_vectors_of_normal_numbers():
    # Recovered from outside: with U of M = U S V^T, U^T M has orthogonal rows.
    key = jax.random.key(3)
    matrix = np.float64(jax.random.normal(key, (8, 5)))
    rows = np.asarray(orthogonal()(key, (8, 5))).T @ matrix
    singular = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(rows @ rows.T, np.diag(singular**2), atol=1e-4)


def test_an_orthogonal_stack_keeps_the_length_of_every_signal():
    keys = jax.random.split(jax.random.key(0), 20)
    kernels = [orthogonal()(key, (6, 6)) for key in keys]
    product = functools.reduce(np.matmul, map(np.float64, kernels))
    np.testing.assert_allclose(np.linalg.svd(product, compute_uv=False), np.ones(6), rtol=1e-5)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "heaviside", "sign", "elu:0.5"])
def test_kumar_needs_a_derivative_at_zero(name):
    with pytest.raises(UsageError, match="kumar needs an activation with a derivative at 0"):
        initializer(f"kumar:{name}")


def test_kumar_may_be_made_while_jax_traces():
    draw = jax.jit(lambda key: initializer("kumar:tanh")(key, (4, 4)))
    np.testing.assert_allclose(
        draw(jax.random.key(0)), initializer("xavier")(jax.random.key(0), (4, 4)), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("xaver", "unknown initializer 'xaver': it is one of small_uniform, small_normal, xavier"),
        ("he:cauchy", "initializer 'he:cauchy': he takes normal or uniform$"),
        ("small_uniform:-1", "small_uniform takes a bound above 0$"),
        ("small_normal:wide", "small_normal takes a standard deviation above 0$"),
        ("orthogonal:nan", "orthogonal takes a gain above 0$"),
        ("kumar", "kumar takes an activation, as in kumar:sigmoid$"),
        ("kumar:swoosh", "unknown activation 'swoosh'"),
    ],
)
def test_a_bad_name_is_refused(name, complaint):
    with pytest.raises(UsageError, match=complaint):
        initializer(name)
