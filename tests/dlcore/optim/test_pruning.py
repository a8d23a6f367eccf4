"""Pruning by magnitude against a sort in NumPy, and what is left of a training behind it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlcore.errors import UsageError
from dlcore.optim import builder, pruning

RATE, STEP, STEPS = 0.1, 2, 5
# Ties, zeros and one magnitude that stands out.
MAGNITUDES = st.lists(st.sampled_from([0.0, -0.5, 0.5, 1.0, -2.0]), min_size=12, max_size=12)


def params_of(weights):
    return {
        "kernel": np.reshape(np.asarray(weights, np.float32), (4, 3)),
        "filters": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 2, 1, 2),
        "bias": np.full(3, 1e-3, np.float32),
    }


def slope(weights):
    return 0.3 * weights + 0.2


def assert_close(one, two):
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def flat(params):
    """The weights of all layers in one array, in the order of their names."""
    return np.concatenate([np.ravel(params[name]) for name in ("filters", "kernel")])


@functools.cache
def compiled(fraction):
    """`descend(params)`: the parameters after each of some steps, with pruning and without."""

    def trajectory(params, *transformations):
        optimizer = optax.chain(
            builder.build("momentum", optax.constant_schedule(RATE)), *transformations
        )
        state, passed = optimizer.init(params), []
        for _ in range(STEPS):
            updates, state = optimizer.update(jax.tree.map(slope, params), state, params)
            params = optax.apply_updates(params, updates)
            passed.append(params)
        return passed

    prune = pruning.prune_by_magnitude(fraction, STEP)
    return jax.jit(lambda params: (trajectory(params, prune), trajectory(params)))


@pytest.mark.parametrize("fraction", [0.25, 0.6, 0.95])
@settings(max_examples=20, deadline=None)
@given(weights=MAGNITUDES)
def test_the_smallest_of_all_weights_become_zero_at_that_step_and_stay(fraction, weights):
    pruned, whole = compiled(fraction)(params_of(weights))
    for step in range(STEP):
        jax.tree.map(assert_close, pruned[step], whole[step])
    before = np.abs(flat(pruned[STEP - 1]))
    order = np.argsort(-before, kind="stable")
    gone = order[before.size - round(fraction * before.size) :]
    left = np.setdiff1d(order, gone)
    for step in range(STEP, STEPS):
        assert (flat(pruned[step])[gone] == 0).all()
        # Each weight's slope is its own here: what is left is trained as before.
        assert_close(flat(pruned[step])[left], flat(whole[step])[left])
    assert_close(pruned[-1]["bias"], whole[-1]["bias"])


def test_an_array_that_is_split_over_devices_loses_what_a_whole_one_does():
    weights = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    prune = pruning.prune_by_magnitude(0.7, 0)
    split = NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), PartitionSpec("data"))

    @jax.jit
    def pruned(params):
        updates, _ = prune.update(jax.tree.map(jnp.zeros_like, params), prune.init(params), params)
        return optax.apply_updates(params, updates)

    one = pruned({"kernel": weights})["kernel"]
    other = pruned({"kernel": jax.device_put(weights, split)})["kernel"]
    assert (np.asarray(one) == 0).sum() == round(0.7 * weights.size)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("fraction", "step", "named"),
    [
        (0.0, 0, "prune_fraction=0.0.*above 0 and below 1"),
        (1.0, 0, "prune_fraction=1.0"),
        (float("nan"), 0, "prune_fraction=nan"),
        (0.5, -1, "step=-1: .*at least 0"),
    ],
)
def test_bad_input_is_refused_by_name(fraction, step, named):
    with pytest.raises(UsageError, match=named):
        pruning.prune_by_magnitude(fraction, step)


def test_weights_that_are_missing_are_neither_ranked_nor_counted():
    mask = np.random.default_rng(0).random((10, 4)) < 0.25
    weights = np.where(mask, np.random.default_rng(1).normal(size=mask.shape), 0)
    params = {"kernel": jnp.asarray(weights, jnp.float32)}
    prune = pruning.prune_by_magnitude(0.5, 0)
    updates, _ = prune.update(jax.tree.map(jnp.zeros_like, params), prune.init(params), params)
    left = np.asarray(optax.apply_updates(params, updates)["kernel"])
    there = np.sort(np.abs(weights[mask]))
    expected = np.where(np.abs(weights) >= there[round(0.5 * len(there))], weights, 0)
    assert 0 < np.count_nonzero(expected) < len(there)
    np.testing.assert_allclose(left, expected, rtol=1e-6)
