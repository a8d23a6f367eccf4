"""The partially connected convolution against sums over its connections."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal

from dlcore.nn.convolution import PartiallyConnectedConv

TABLE = ((0, 2), (1,), (2, 0, 1))
LAYER = PartiallyConnectedConv(TABLE, (3, 2))


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
