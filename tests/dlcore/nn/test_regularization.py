"""Dropout: its distribution, its two modes, and its independence of the device layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from dlcore.errors import UsageError
from dlcore.nn.regularization import Dropout
from dlcore.parallel import AXIS


def drop(x, rate, seed=0, train=True):
    return Dropout(rate).apply({}, x, train, rngs={"dropout": jax.random.key(seed)})


@settings(max_examples=10, deadline=None)
@given(rate=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_training_drops_at_the_rate_and_scales_what_is_left(rate, seed):
    dropped = np.asarray(drop(jnp.full((20, 500), 3.0), rate, seed))
    survivors = dropped[dropped != 0]
    np.testing.assert_allclose(survivors, 3 / (1 - rate), rtol=1e-5)
    # Five standard deviations of a binomial count.
    spread = 5 * np.sqrt(rate * (1 - rate) / dropped.size)
    assert np.mean(dropped == 0) == pytest.approx(rate, abs=spread)


def test_evaluation_is_the_identity_and_needs_no_rng():
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, False), x)


def test_a_rate_of_zero_is_the_identity_in_training():
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, True), x)


def test_examples_are_dropped_independently():
    dropped = np.asarray(drop(jnp.ones((2, 1000)), 0.5))
    assert 0.4 < np.mean(dropped[0] == dropped[1]) < 0.6


def test_the_noise_is_the_same_on_eight_devices_as_on_one():
    x = jax.random.normal(jax.random.key(1), (16, 3, 5))
    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec(AXIS)
    shared = jax.shard_map(
        lambda share: drop(share, 0.5), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    np.testing.assert_array_equal(jax.jit(shared)(x), drop(x, 0.5))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        drop(jnp.ones((2, 2)), rate)
