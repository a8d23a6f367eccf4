"""Merged moments are those of all values at once, in float64."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np

from kernels.conv_bn_relu.moments import merge


def tiles_of(values, counts):
    """Sums, squares about each tile's mean and counts, of tiles of the rows."""
    tiles = np.split(values, np.cumsum(counts)[:-1])
    sums = np.stack([tile.sum(0) for tile in tiles])
    squares = np.stack([np.square(tile - tile.mean(0)).sum(0) for tile in tiles])
    return jnp.float32(sums), jnp.float32(squares), jnp.asarray(counts, jnp.int32)


@hypothesis.given(
    st.lists(st.integers(1, 100), min_size=1, max_size=6),
    st.sampled_from([0.0, 1.0, -1000.0]),
    st.integers(0, 2**32 - 1),
)
def test_they_do_not_depend_on_how_values_are_tiled(counts, mean, seed):
    values = np.random.default_rng(seed).normal(mean, 1, (sum(counts), 3))
    merged = merge(*tiles_of(values, counts))
    exact = values.mean(0)
    squares = np.square(values - exact).sum(0)
    # A mean is rounded to eps of its size, and a sum of squares changes by n times its error's.
    rounded = 4 * np.finfo(np.float32).eps * (1 + abs(mean))
    np.testing.assert_allclose(merged.mean, exact, atol=rounded, rtol=0)
    slack = 1e-5 * squares + 2 * rounded * np.sqrt(len(values) * squares)
    slack += len(values) * rounded**2
    np.testing.assert_array_less(np.abs(merged.squares - squares), slack)


def test_squares_between_equal_tiles_of_different_means_are_counted():
    sums = jnp.array([[0.0], [8.0]])
    merged = merge(sums, jnp.zeros((2, 1)), jnp.array([4, 4]))
    assert merged.mean == 1
    assert merged.squares == 8


def test_squares_of_a_constant_far_from_zero_are_what_rounding_leaves():
    values = np.full((612, 1), 12345.6)
    by_powers = np.mean(np.float32(values) ** 2) - np.mean(np.float32(values)) ** 2
    assert by_powers < 0
    merged = merge(*tiles_of(values, [100, 112, 400]))
    assert 0 <= merged.squares / len(values) < 1e-5
