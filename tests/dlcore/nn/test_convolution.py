"""Convolutions against XLA's own, and against sums over connections."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax.sharding import PartitionSpec

from dlcore.nn.convolution import PartiallyConnectedConv, convolution
from dlcore.parallel import AXIS

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


def test_each_output_map_is_the_sum_over_its_connections():
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


def test_an_output_map_does_not_see_the_others_inputs():
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
    assert largest[2] > 2.4 / 12  # A unit with one input map reaches beyond one with two.
