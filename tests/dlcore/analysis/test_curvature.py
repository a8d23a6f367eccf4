"""Hessian-vector products against matrices that are known."""

import functools

import jax
import numpy as np
import pytest

from dlcore.analysis.curvature import hessian, hessian_vector_product, negative_share


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def cubic(x):
    return x[0] ** 2 * x[1] + x[1] * x[2] - x[2] ** 3


def test_a_product_is_the_hessian_of_pencil_and_paper_times_the_vector():
    x, y, z = point = np.asarray([0.7, -1.1, 0.4])
    matrix = np.asarray([[2 * y, 2 * x, 0], [2 * x, 0, 1], [0, 1, -6 * z]])
    vector = np.asarray([0.3, -2.0, 1.5])
    product = jax.jit(functools.partial(hessian_vector_product, cubic))(point, vector)
    np.testing.assert_allclose(product, matrix @ vector, rtol=1e-12)
    found = jax.jit(functools.partial(hessian, cubic))(point)
    np.testing.assert_allclose(found, matrix, rtol=1e-12, atol=1e-12)


def test_a_product_of_two_factors_has_a_saddle_at_zero_with_half_its_directions_down():
    def two_layers(w):
        return (w[:5] @ w[5:] - 1.0) ** 2 / 2

    matrix = jax.jit(functools.partial(hessian, two_layers))(np.zeros(10))
    values = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(values, [-1.0] * 5 + [1.0] * 5, atol=1e-12)
    assert negative_share(values) == 0.5


def test_rounding_errors_of_zero_have_no_sign():
    values = np.asarray([[-1e-12, 0.0, 2.0, -0.1], [-3.0, -3.0, -3.0, 1e-3]])
    np.testing.assert_array_equal(negative_share(values), [0.25, 0.75])
