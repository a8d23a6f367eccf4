"""Pooling against windows taken one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.nn.pooling import TrainableSubsampling, max_pool


def windows(x):
    """The 2x2 windows of images [B, H, W, C]: [B, H // 2, W // 2, 4, C], one by one."""
    batch, height, width, maps = x.shape
    result = np.zeros((batch, height // 2, width // 2, 4, maps), x.dtype)
    for row in range(height // 2):
        for column in range(width // 2):
            window = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            result[:, row, column] = window.reshape(batch, 4, maps)
    return result


def images(height, width):
    return jax.random.normal(jax.random.key(0), (2, height, width, 3))


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (2, 3)])
def test_max_pool_takes_the_largest_of_each_window(height, width):
    x = images(height, width)
    np.testing.assert_array_equal(max_pool(x), windows(x).max(3))


def test_max_pool_passes_the_gradient_to_the_largest():
    x = images(4, 6)
    gradient = jax.grad(lambda x: (max_pool(x) * jnp.arange(1.0, 4.0)).sum())(x)
    largest = windows(x) == windows(x).max(3, keepdims=True)
    np.testing.assert_array_equal(windows(np.asarray(gradient)), largest * np.arange(1.0, 4.0))


def test_equal_largest_numbers_share_the_gradient_of_max_pool():
    x = jnp.array([[5.0, 5.0], [1.0, 5.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: max_pool(x).sum())(x)[0, :, :, 0]
    assert float(gradient.sum()) == 1
    np.testing.assert_array_equal(gradient > 0, [[True, True], [False, True]])


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7)])
def test_subsampling_scales_and_shifts_each_map_s_window_sums(height, width):
    x = images(height, width)
    coefficient, bias = np.array([0.5, -1, 2]), np.array([1, 0, -3.0])
    y = TrainableSubsampling().apply({"params": {"coefficient": coefficient, "bias": bias}}, x)
    np.testing.assert_allclose(y, windows(x).sum(3) * coefficient + bias, rtol=1e-5, atol=1e-5)
