"""Pooling against windows taken one by one, and against PyTorch's answers."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dlcore.analysis import counts
from dlcore.errors import UsageError
from dlcore.nn.pooling import (
    TrainableSubsampling,
    adaptive_avg_pool,
    lp_pool,
    max_pool,
    max_pool_with_indices,
    sum_pool,
    unpool,
)
from tests.fixtures import cases, layer_cases

# Two channels of 5x4 for the laws: their windows overlap, or leave a row out.
MAPS = npst.arrays(np.float32, (1, 5, 4, 2), elements=st.floats(-4, 4, width=16))
GEOMETRIES = (((2, 2), (2, 2)), ((3, 2), (1, 1)), ((5, 4), (1, 1)))


def windows(x):
    """The 2x2 windows of images [B, H, W, C]: [B, H // 2, W // 2, 4, C], one by one."""
    batch, height, width, channels = x.shape
    result = np.zeros((batch, height // 2, width // 2, 4, channels), x.dtype)
    for row in range(height // 2):
        for column in range(width // 2):
            window = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            result[:, row, column] = window.reshape(batch, 4, channels)
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
def test_subsampling_scales_and_shifts_each_channel_s_window_sums(height, width):
    x = images(height, width)
    coefficient, bias = np.array([0.5, -1, 2]), np.array([1, 0, -3.0])
    y = TrainableSubsampling().apply({"params": {"coefficient": coefficient, "bias": bias}}, x)
    np.testing.assert_allclose(y, windows(x).sum(3) * coefficient + bias, rtol=1e-5, atol=1e-5)


def reduced(x, function, window, strides, pads, outside):
    """A function of every window, one by one, in any number of dimensions, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *pads, (0, 0)), constant_values=outside)
    starts = [
        range(0, length - size + 1, stride)
        for length, size, stride in zip(x.shape[1:-1], window, strides, strict=True)
    ]
    result = np.zeros((x.shape[0], *map(len, starts), x.shape[-1]))
    for position in itertools.product(*(range(len(own)) for own in starts)):
        corner = [own[index] for own, index in zip(starts, position, strict=True)]
        slices = (slice(a, a + size) for a, size in zip(corner, window, strict=True))
        part = x[:, *slices].reshape(x.shape[0], -1, x.shape[-1])
        result[:, *position] = function(part, axis=1)
    return result


@pytest.mark.parametrize(
    ("space", "window", "strides", "pads"),
    [
        ((9,), (3,), (2,), ((0, 0),)),  # One dimension, overlapping.
        ((9,), (2,), (3,), ((1, 0),)),  # A number between two windows belongs to none.
        ((7, 6), (3, 2), (2, 1), ((1, 1), (0, 1))),
        ((5, 4), (5, 4), (5, 4), ((0, 0), (0, 0))),  # Global.
        ((4, 5, 3), (2, 3, 2), (2, 1, 1), ((0, 1), (1, 1), (0, 0))),
    ],
)
def test_pooling_over_any_windows_is_what_each_window_gives(space, window, strides, pads):
    x = jnp.asarray(cases.Draw("windows").normal(2, *space, 3))
    geometry = (window, strides, pads)
    maximum = reduced(x, np.max, *geometry, outside=-np.inf)
    np.testing.assert_array_equal(max_pool(x, *geometry), maximum)
    for pooled, function in (
        (sum_pool(x, *geometry), np.sum),
        (lp_pool(x, 2, *geometry), np.linalg.norm),
        (lp_pool(x, 1, *geometry), lambda part, axis: np.abs(part).sum(axis)),
    ):
        expected = reduced(x, function, *geometry, outside=0.0)
        np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)


def test_named_padding_is_flax_s():
    geometries = (((2, 2), "SAME"), ((1, 3), "SAME"), ((2, 1), "VALID"))

    @jax.jit
    def pooled_by_both(x):
        return [
            [pool(x, (3, 2), *geometry) for geometry in geometries]
            for pool in (max_pool, nn.max_pool)
        ]

    ours, flax = pooled_by_both(images(7, 6))
    jax.tree.map(np.testing.assert_array_equal, ours, flax)


@pytest.mark.parametrize(("height", "width"), [(6, 7), (5, 8), (2, 3)])
def test_padding_by_ceil_is_what_the_last_windows_lack(height, width):
    x = images(height, width)
    rows = [
        [x[:, top : top + 3, left : left + 3].max((1, 2)) for left in range(0, width - 1, 2)]
        for top in range(0, height - 1, 2)
    ]
    pooled = max_pool(x, (3, 3), (2, 2), "CEIL")
    np.testing.assert_array_equal(pooled, np.array(rows).transpose(2, 0, 1, 3))


def test_global_pooling_is_the_reduction_over_the_axes():
    x = images(5, 4)
    np.testing.assert_array_equal(max_pool(x, (5, 4))[:, 0, 0], x.max((1, 2)))
    np.testing.assert_allclose(sum_pool(x, (5, 4))[:, 0, 0] / 20, x.mean((1, 2)), rtol=1e-5)


def test_three_ties_in_a_row_halve_the_gradient_from_pair_to_pair():
    x = jnp.zeros((1, 3, 1))
    gradient = jax.grad(lambda x: max_pool(x, (3,)).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, 0], [0.25, 0.25, 0.5])


def test_each_overlapping_window_passes_its_own_gradient():
    x = jnp.array([1.0, 5, 2, 4, 3])[None, :, None]
    weights = jnp.array([1.0, 10, 100])[None, :, None]
    gradient = jax.grad(lambda x: (max_pool(x, (3,), (1,)) * weights).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, 0], [0, 11, 0, 100, 0])


def test_a_window_of_zeros_has_no_lp_gradient_and_others_have_that_of_the_norm():
    x = jnp.array([0.0, 0, 3, -4])[None, :, None]
    gradient = jax.grad(lambda x: lp_pool(x, 2, (2,)).sum())(x)
    np.testing.assert_allclose(gradient[0, :, 0], [0, 0, 0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("p", [2.5, 50])
def test_no_power_of_lp_pooling_leaves_the_range_of_floats(dtype, scale, p):
    x = np.array([3.0, -4.0, 1.0, 0.0])

    def pooled(x):
        return lp_pool(x.reshape(1, 2, 2, 1), p)[0, 0, 0, 0]

    value, gradient = jax.value_and_grad(pooled)(jnp.asarray(scale * x, dtype))
    norm = np.linalg.norm(x, p)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    if dtype == jnp.bfloat16:
        close = functools.partial(np.testing.assert_allclose, rtol=0.03, atol=0.01)
    close(np.float64(value), scale * norm, atol=0)
    close(np.float64(gradient), np.sign(x) * (np.abs(x) / norm) ** (p - 1))


@functools.partial(jax.jit, static_argnums=1)
def norms(x, geometry):
    """The L1, L2, L8 and largest of each window."""
    return *(lp_pool(x, p, *geometry) for p in (1, 2, 8)), max_pool(jnp.abs(x), *geometry)


@given(MAPS, st.sampled_from(GEOMETRIES))
def test_lp_pooling_falls_with_p_toward_the_largest(x, geometry):
    count = np.prod(geometry[0])
    l1, l2, l8, largest = map(np.asarray, norms(x, geometry))
    slack = 1 + 1e-5
    assert (l2 <= l1 * slack).all()
    assert (l8 <= l2 * slack).all()
    assert (largest <= l8 * slack).all()
    assert (l8 <= largest * count ** (1 / 8) * slack).all()


@functools.partial(jax.jit, static_argnums=2)
def indexed(x, weights, geometry):
    """The largest of each window and where it was, and what unpooling makes of weights there."""
    values, indices = max_pool_with_indices(x, *geometry)
    own = weights[:, : values.shape[1], : values.shape[2]]
    return values, indices, max_pool(x, *geometry), own, unpool(own, indices, x.shape[1:-1])


@given(MAPS, MAPS, st.sampled_from(GEOMETRIES))
def test_an_index_says_where_the_largest_number_of_its_window_was(x, weights, geometry):
    values, indices, largest, *_ = map(np.asarray, indexed(x, weights, geometry))
    np.testing.assert_array_equal(values, largest)
    picked = np.take_along_axis(x.reshape(1, -1, 2), indices.reshape(1, -1, 2), axis=1)
    np.testing.assert_array_equal(picked.reshape(values.shape), values)


@given(MAPS, MAPS, st.sampled_from(GEOMETRIES))
def test_unpooling_is_the_transpose_of_taking_by_the_indices(x, weights, geometry):
    values, _, _, own, unpooled = map(np.asarray, indexed(x, weights, geometry))
    np.testing.assert_allclose((values * own).sum(), (x * unpooled).sum(), rtol=1e-4, atol=1e-4)


def test_of_equal_largest_numbers_the_first_is_indexed_and_gets_the_gradient():
    x = jnp.array([[5.0, 5.0], [1.0, 5.0]])[None, :, :, None]
    assert int(max_pool_with_indices(x)[1][0, 0, 0, 0]) == 0
    gradient = jax.grad(lambda x: max_pool_with_indices(x)[0].sum())(x)[0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[1, 0], [0, 0]])


@pytest.mark.parametrize("number", range(len(layer_cases.POOLING_WINDOWS)))
def test_pooling_gives_pytorch_s_numbers_and_indices(number):
    x, expected = layer_cases.pooling()["x"], cases.load("pooling")
    geometry = layer_cases.POOLING_WINDOWS[number]
    values, indices = max_pool_with_indices(jnp.asarray(x), *geometry)
    np.testing.assert_array_equal(values, expected[f"max_{number}"])
    np.testing.assert_array_equal(indices, expected[f"indices_{number}"])
    for p in (2, 3):
        pooled = lp_pool(jnp.asarray(x), p, *geometry)
        np.testing.assert_allclose(pooled, expected[f"l{p}_{number}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", range(len(layer_cases.POOLING_GRIDS)))
def test_the_means_of_a_grid_s_cells_are_pytorch_s(number):
    x, expected = layer_cases.pooling()["x"], cases.load("pooling")
    means = adaptive_avg_pool(jnp.asarray(x), layer_cases.POOLING_GRIDS[number])
    np.testing.assert_allclose(means, expected[f"means_{number}"], rtol=1e-5, atol=1e-6)


def test_a_grid_that_divides_the_image_has_the_windows_means_and_overlaps_otherwise():
    x = images(6, 8)
    np.testing.assert_allclose(
        adaptive_avg_pool(x, (3, 4)), windows(np.asarray(x)).mean(3), rtol=1e-5, atol=1e-6
    )
    rows = np.arange(1.0, 6.0)
    column = jnp.asarray(rows, jnp.float32).reshape(1, 5, 1, 1)
    # Rows 1 to 3 and 3 to 5; each of five rows, once or, in a finer grid, twice.
    for cells, means in ((2, [2, 4]), (5, rows), (10, rows.repeat(2))):
        np.testing.assert_allclose(adaptive_avg_pool(column, (cells, 1))[0, :, 0, 0], means)
    gradient = jax.grad(lambda x: (adaptive_avg_pool(x, (2, 1))[0, :, 0, 0] * rows[:2]).sum())
    np.testing.assert_allclose(gradient(column)[0, :, 0, 0] * 3, [1, 1, 3, 2, 2], rtol=1e-6)


def test_a_grid_s_means_keep_their_precision_and_count_as_no_products():
    x = images(7, 6).astype(jnp.bfloat16)
    means = adaptive_avg_pool(x, (2, 3))
    assert means.dtype == jnp.bfloat16
    exact = adaptive_avg_pool(x.astype(jnp.float32), (2, 3))
    np.testing.assert_allclose(means.astype(jnp.float32), exact, atol=0.005)
    assert counts.multiply_adds(lambda x: adaptive_avg_pool(x, (2, 3)), x) == 0


def test_unpooling_and_its_gradient_are_pytorch_s():
    case, expected = layer_cases.pooling(), cases.load("pooling")
    indices = jnp.asarray(expected["indices_0"], jnp.int32)
    values = jnp.asarray(case["values"])
    unpooled, pull_back = jax.vjp(lambda values: unpool(values, indices, (7, 6)), values)
    np.testing.assert_array_equal(unpooled, expected["unpooled"].astype(np.float32))
    # Windows that do not overlap: what was put somewhere comes back from there.
    np.testing.assert_array_equal(pull_back(unpooled)[0], values)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda x: max_pool(x, (2,)), "window and strides of 2 positive numbers"),
        (lambda x: max_pool(x, (2, 0)), "positive numbers, not 2x0"),
        (lambda x: sum_pool(x, (5, 2)), "5x2 does not fit into 4x6"),
        (lambda x: max_pool(x, padding=((2, 0), (0, 0))), "not larger than its padding"),
        (lambda x: max_pool_with_indices(x, (9, 9)), "does not fit"),
        (lambda x: lp_pool(x, 0.5), "at least 1, not 0.5"),
    ],
)
def test_windows_that_cannot_be_are_refused_by_name(call, complaint):
    with pytest.raises(UsageError, match=complaint):
        call(images(4, 6))


@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1e-19, 1.0, 1e19, 1e37])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_the_gradient_of_lp_pooling_is_right_at_any_scale(scale, p):
    x = np.array([3.0, -4.0, 1.0, 0.0])

    def pooled(x):
        return lp_pool(x.reshape(1, 2, 2, 1), p)[0, 0, 0, 0]

    gradient = jax.jit(jax.grad(pooled))(jnp.asarray(scale * x, jnp.float32))
    expected = np.sign(x) * (np.abs(x) / np.linalg.norm(x, p)) ** (p - 1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_the_gradient_of_equal_tiny_numbers_is_that_of_their_norm():
    gradient = jax.grad(lambda x: lp_pool(jax.nn.sigmoid(x), 2).sum() / 1e-26)(
        jnp.full((1, 2, 2, 1), -60.0)
    )
    size = 1 / (1 + np.exp(60.0))
    # d/dx of sqrt(4 s^2) by one of the four: s / (2 s) times s' = s (1 - s).
    np.testing.assert_allclose(gradient, size / 2 / 1e-26, rtol=1e-5)
