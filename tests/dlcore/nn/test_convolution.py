"""Convolutions against XLA's own, against sums over connections, and against PyTorch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax.sharding import PartitionSpec

from dlcore.errors import UsageError
from dlcore.nn.convolution import PartiallyConnectedConv, UpsampledConv, convolution
from dlcore.nn.geometry import Window, transposed_output_size, transposed_padding
from dlcore.parallel import AXIS
from tests.fixtures import cases, layer_cases

TABLE = ((0, 2), (1,), (2, 0, 1))
LAYER = PartiallyConnectedConv(TABLE, (3, 2))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((7, 9, 1), {"padding": "SAME"}),
        ((7, 9, 1), {"padding": "VALID"}),
        ((7, 9, 1), {"padding": ((0, 2), (3, 1))}),
        ((3, 4, 5), {"padding": "VALID"}),  # A kernel as large as the image.
        ((3, 4, 5), {"padding": "SAME"}),
        ((7, 9, 1), {"strides": 2}),
        ((7, 9, 2), {}),
        ((7, 9, 1), {"kernel_dilation": 2}),
        ((3, 4, 2), {"padding": "VALID", "feature_group_count": 2}),
    ],
)
def test_the_faster_convolution_and_its_gradients_equal_xla_s(shape, options):
    x = jax.random.normal(jax.random.key(0), (8, *shape))
    plain = nn.Conv(6, (3, 4), **options)
    faster = nn.Conv(6, (3, 4), **options, conv_general_dilated=convolution)
    params = plain.init(jax.random.key(1), x)

    def outputs_and_gradients(layer):
        y, pull_back = jax.vjp(layer.apply, params, x)
        return y, pull_back(jnp.cos(y))

    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    expected = outputs_and_gradients(plain)
    jax.tree.map(close, jax.jit(lambda: outputs_and_gradients(faster))(), expected)


def test_the_faster_convolution_serves_several_devices():
    x = jax.random.normal(jax.random.key(0), (8, 7, 9, 1))
    layer = nn.Conv(6, (3, 4), conv_general_dilated=convolution)
    params = layer.init(jax.random.key(1), x)
    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    split = PartitionSpec(AXIS)
    shared = jax.shard_map(
        lambda x: layer.apply(params, x), mesh=mesh, in_specs=split, out_specs=split
    )
    np.testing.assert_allclose(jax.jit(shared)(x), layer.apply(params, x), rtol=1e-5, atol=1e-5)


def images():
    return jax.random.normal(jax.random.key(0), (2, 6, 5, 3))


def test_each_output_channel_is_the_sum_over_its_connections():
    x = images()
    params = LAYER.init(jax.random.key(0), x)["params"]
    y = np.asarray(LAYER.apply({"params": params}, x))
    assert y.shape == (2, 4, 4, 3)
    for example in range(2):
        connection = 0
        for output, inputs in enumerate(TABLE):
            total = np.full((4, 4), params["bias"][output], np.float64)
            for source in inputs:
                kernel = np.asarray(params["kernel"][:, :, connection], np.float64)
                total += scipy.signal.correlate2d(x[example, :, :, source], kernel, mode="valid")
                connection += 1
            np.testing.assert_allclose(y[example, :, :, output], total, rtol=1e-5, atol=1e-5)


def test_an_output_channel_does_not_see_the_others_inputs():
    x = images()
    params = LAYER.init(jax.random.key(0), x)

    def of_output_one(x):
        return LAYER.apply(params, x)[..., 1].sum()

    reach = jnp.abs(jax.grad(of_output_one)(x)).sum((0, 1, 2))
    np.testing.assert_array_equal(reach > 0, [False, True, False])


def test_only_connections_are_parameters_and_each_is_bounded_by_its_unit_s_fan_in():
    params = LAYER.init(jax.random.key(0), images())["params"]
    assert params["kernel"].shape == (3, 2, 6)
    assert params["bias"].shape == (3,)
    fan_in = 6 * np.array([2, 2, 1, 3, 3, 3])
    largest = np.abs(params["kernel"]).max((0, 1))
    np.testing.assert_array_less(largest, 2.4 / fan_in)
    assert largest[2] > 2.4 / 12  # A unit with one input channel reaches beyond one with two.


@pytest.mark.parametrize("space", [(7,), (6, 5), (4, 5, 3)])
def test_convolution_with_every_option_is_the_lectures_sum_in_any_number_of_dimensions(space):
    axes = len(space)
    stride, dilation, groups, pads = (2, 1, 1)[:axes], (1, 2, 1)[:axes], 2, ((1, 0),) * axes
    draw = cases.Draw("convolution")
    x, kernel = draw.normal(2, *space, 4), draw.normal(*(2,) * axes, 2, 6)
    layer = nn.Conv(
        6,
        (2,) * axes,
        stride,
        pads,
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=False,
    )
    y = layer.apply({"params": {"kernel": kernel}}, x)
    padded = np.pad(x.astype(np.float64), ((0, 0), *pads, (0, 0)))
    expected = np.zeros(y.shape)
    for position in np.ndindex(*y.shape[1:-1]):
        for offset in np.ndindex(*kernel.shape[:axes]):
            at = np.array(position) * stride + np.array(offset) * dilation
            for group in range(groups):
                inputs, outputs = slice(2 * group, 2 * group + 2), slice(3 * group, 3 * group + 3)
                seen = padded[:, *at, inputs] @ kernel[*offset, :, outputs]
                expected[:, *position, outputs] += seen
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_1x1_convolution_mixes_the_channels_of_each_position():
    draw = cases.Draw("1x1")
    x, kernel = draw.normal(2, 6, 5, 3), draw.normal(1, 1, 3, 2)
    y = nn.Conv(2, (1, 1), use_bias=False).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(y, x @ kernel[0, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", range(len(layer_cases.TRANSPOSED)))
def test_the_transposed_convolution_is_pytorch_s_with_the_transposed_padding(number):
    size, stride, padding, remainder, dilation = layer_cases.TRANSPOSED[number]
    case, expected = layer_cases.transposed(), cases.load("transposed")[f"y_{number}"]
    pads = transposed_padding(Window(size, stride, dilation), (padding, padding), remainder)
    layer = nn.ConvTranspose(
        3,
        (size, size),
        (stride, stride),
        (pads, pads),
        kernel_dilation=(dilation, dilation),
        use_bias=False,
        transpose_kernel=True,
    )
    y = layer.apply({"params": {"kernel": case[f"kernel_{number}"]}}, case["x"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    sizes = [transposed_output_size(n, Window(size, stride, dilation), pads) for n in (4, 5)]
    assert expected.shape == (1, *sizes, 3)


def test_a_locally_connected_layer_has_a_dense_layer_at_every_place():
    draw = cases.Draw("local")
    x, kernel, bias = draw.normal(2, 6, 5, 3), draw.normal(2, 4, 18, 4), draw.normal(2, 4, 4)
    layer = nn.ConvLocal(4, (3, 2), (2, 1), "VALID")
    y = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    for row, column in np.ndindex(2, 4):
        patch = x[:, 2 * row : 2 * row + 3, column : column + 2]
        # Linen lays a patch out channel by channel.
        seen = np.moveaxis(patch, -1, 1).reshape(2, -1).astype(np.float64)
        expected = seen @ kernel[row, column] + bias[row, column]
        np.testing.assert_allclose(y[:, row, column], expected, rtol=1e-4, atol=1e-5)


def test_upsampling_repeats_each_number_and_then_convolves():
    draw = cases.Draw("upsampled")
    x, kernel = draw.normal(2, 6, 5, 3), draw.normal(3, 3, 3, 1)
    params = {"conv": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
    y = UpsampledConv(1, (3, 3), factor=3).apply({"params": params}, jnp.asarray(x))
    larger = x.astype(np.float64).repeat(3, axis=1).repeat(3, axis=2)
    expected = sum(
        scipy.signal.correlate2d(larger[0, :, :, i], kernel[:, :, i, 0], mode="same")
        for i in range(3)
    )
    np.testing.assert_allclose(y[0, :, :, 0], expected, rtol=1e-4, atol=1e-5)


def test_linear_upsampling_keeps_a_ramp_straight():
    x = jnp.arange(8.0)[None, :, None]
    layer = UpsampledConv(1, (1,), factor=2, method="linear")
    identity = {"kernel": jnp.ones((1, 1, 1)), "bias": jnp.zeros(1)}
    y = layer.apply({"params": {"conv": identity}}, x)
    np.testing.assert_allclose(y[0, 1:-1, 0], np.arange(14) / 2 + 0.25, rtol=1e-6)


def test_only_the_transposed_convolution_leaves_a_checkerboard_on_a_flat_map():
    x = jnp.ones((1, 6, 6, 1))
    ones = {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}
    upsampled = UpsampledConv(1, (3, 3)).apply({"params": {"conv": ones}}, x)
    transposed = nn.ConvTranspose(1, (3, 3), (2, 2)).apply({"params": ones}, x)
    np.testing.assert_array_equal(upsampled[0, 1:-1, 1:-1, 0], np.full((10, 10), 9.0))
    assert set(np.unique(transposed[0, 1:-1, 1:-1, 0])) == {1.0, 2.0, 4.0}


@pytest.mark.parametrize(
    "layer", [UpsampledConv(1, (3,), factor=0), UpsampledConv(1, (3,), method="cubic")]
)
def test_an_upsampling_that_is_none_is_refused(layer):
    with pytest.raises(UsageError, match="nearest or linear, by a factor of 1 or more"):
        layer.init(jax.random.key(0), jnp.ones((1, 4, 1)))


@pytest.mark.parametrize(
    ("shape", "size", "strides", "padding"),
    [
        ((2, 3, 1), (3, 4), (1, 1), "VALID"),  # No window fits.
        ((2, 5, 1), (3, 4), (1, 1), ((0, 0), (1, 1))),
        ((7, 9, 1), (3, 4), (1, 1), ((-1, 0), (2, -3))),
        ((3, 4, 5), (3, 4), (1, 1), ((-1, 1), (0, 0))),
        ((7, 1), (3,), (1,), "SAME"),
        ((3, 5), (3,), (1,), "VALID"),
        ((7, 2), (3,), (2,), "SAME"),
        ((4, 5, 6, 1), (2, 3, 2), (1, 1, 1), "SAME"),
        ((4, 5, 6, 1), (2, 3, 2), (1, 1, 1), ((0, 1), (1, 0), (2, 2))),
        ((2, 3, 2, 4), (2, 3, 2), (1, 1, 1), "VALID"),
        ((1, 1, 1, 1), (2, 3, 2), (1, 1, 1), "VALID"),
    ],
)
def test_the_faster_convolution_answers_what_xla_s_does(shape, size, strides, padding):
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    kernel = jax.random.normal(jax.random.key(1), (*size, shape[-1], 3))
    letters = "DHW"[-len(size) :]
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    plain = jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)
    faster = jax.jit(lambda x, kernel: convolution(x, kernel, strides, padding))(x, kernel)
    assert faster.shape == plain.shape
    np.testing.assert_allclose(faster, plain, rtol=1e-5, atol=1e-5)
