"""Noise and masks: distributions, the two modes, and independence of the device layout."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from dlcore.errors import UsageError
from dlcore.nn.regularization import (
    LOCAL,
    DropConnectDense,
    Dropout,
    DropPathJoin,
    GaussianNoise,
    MaskedDense,
    StochasticDepth,
    drop_path_columns,
)
from dlcore.parallel import AXIS

KERNEL = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
BIAS = np.array([1.0, -2.0, 3.0, 0.5], np.float32)
DENSE = {"params": {"kernel": jnp.asarray(KERNEL), "bias": jnp.asarray(BIAS)}}
ROW = np.random.default_rng(1).normal(size=5).astype(np.float32)


def noisy(layer, *inputs, variables=None, seed=0):
    """The layer's output; the last input is static."""
    *arrays, last = inputs

    @jax.jit
    def run(key, *arrays):
        return layer.apply(variables or {}, *arrays, last, rngs={"dropout": key})

    return run(jax.random.key(seed), *arrays)


def drop(x, rate, seed=0, train=True, classic=False):
    return Dropout(rate, classic).apply({}, x, train, rngs={"dropout": jax.random.key(seed)})


# Dropout


@settings(max_examples=6, deadline=None)
@given(rate=st.sampled_from([0.05, 0.2, 0.5, 0.95]), seed=st.integers(0, 1000))
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


@pytest.mark.parametrize("classic", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_a_rate_of_zero_is_the_identity_in_both_modes_and_forms(train, classic):
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(Dropout(0.0, classic).apply({}, x, train), x)


def test_steps_alike_lose_the_same_numbers_at_every_step_of_a_row_but_not_in_every_row():
    x = jnp.full((4, 6, 50), 3.0)
    dropped = Dropout(0.5, steps_alike=True).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(dropped)) == {0, 6}
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], x.shape))
    assert (dropped[0] != dropped[1]).any()


def test_classic_dropout_leaves_survivors_as_they_are_and_scales_evaluation():
    x = jnp.arange(1.0, 41.0).reshape(4, 10)
    dropped = np.asarray(drop(x, 0.25, classic=True))
    assert 0 < np.mean(dropped == 0) < 1
    np.testing.assert_array_equal(dropped[dropped != 0], np.asarray(x)[dropped != 0])
    np.testing.assert_allclose(drop(x, 0.25, train=False, classic=True), 0.75 * x)


@settings(max_examples=6, deadline=None)
@given(rate=st.sampled_from([0.2, 0.5, 0.9]), seed=st.integers(0, 1000), train=st.booleans())
def test_in_either_mode_classic_is_what_is_kept_times_inverted(rate, seed, train):
    x = jax.random.normal(jax.random.key(9), (6, 7))
    classic, inverted = (drop(x, rate, seed, train, form) for form in (True, False))
    np.testing.assert_allclose(classic, (1 - rate) * inverted, rtol=1e-6)


@pytest.mark.parametrize("classic", [False, True])
def test_both_forms_have_in_training_the_mean_that_they_give_in_evaluation(classic):
    x, count, rate = jnp.array([2.0, -1.0, 4.0]), 20_000, 0.3
    mean = drop(jnp.tile(x, (count, 1)), rate, classic=classic).mean(0)
    evaluated = drop(x[None], rate, train=False, classic=classic)[0]
    # Five standard errors; the larger of the two forms' deviations.
    error = 5 * np.abs(x) * np.sqrt(rate / (1 - rate) / count)
    assert (np.abs(mean - evaluated) < error).all()


def test_examples_are_dropped_independently():
    dropped = np.asarray(drop(jnp.ones((2, 1000)), 0.5))
    assert 0.4 < np.mean(dropped[0] == dropped[1]) < 0.6


# DropConnect


def test_without_dropping_dropconnect_is_a_dense_layer():
    x = jax.random.normal(jax.random.key(1), (3, 5))
    expected = nn.Dense(4).apply(DENSE, x)
    for rate, train in ((0.0, True), (0.5, False)):
        got = DropConnectDense(4, rate).apply(DENSE, x, train)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    fresh, dense = (
        layer.init(jax.random.key(2), x, *rest)
        for layer, rest in ((DropConnectDense(4, 0.5), (False,)), (nn.Dense(4), ()))
    )
    jax.tree.map(np.testing.assert_array_equal, fresh, dense)


def test_dropconnect_has_the_mean_of_the_dense_layer_and_the_variance_of_its_masks():
    count, rate = 20_000, 0.4
    sums = np.asarray(
        noisy(DropConnectDense(4, rate), jnp.tile(ROW, (count, 1)), True, variables=DENSE)
    )
    terms = np.concatenate([ROW[:, None] * KERNEL, BIAS[None]])
    variance = (terms**2).sum(0) * rate / (1 - rate)
    assert (np.abs(sums.mean(0) - terms.sum(0)) < 5 * np.sqrt(variance / count)).all()
    np.testing.assert_allclose(sums.var(0), variance, rtol=0.05)


def test_dropconnect_draws_a_mask_for_each_example_over_weights_and_biases():
    # Each sum of powers of two tells which of its connections are there.
    powers = {"kernel": jnp.tile(2.0 ** jnp.arange(5)[:, None], (1, 4)), "bias": jnp.full(4, 32.0)}
    layer = DropConnectDense(4, 0.5)
    sums = noisy(layer, jnp.ones((300, 5)), True, variables={"params": powers})
    subsets = (np.asarray(sums) / 2).astype(int)
    np.testing.assert_array_equal(subsets * 2, sums)
    bits = subsets[..., None] >> np.arange(6) & 1
    np.testing.assert_allclose(bits.mean((0, 1)), 0.5, atol=5 * 0.5 / np.sqrt(1200))
    assert len(np.unique(subsets, axis=0)) > 290


# Connections that are missing beforehand


def test_a_masked_layer_is_the_sum_over_the_connections_that_are_there():
    mask = np.random.default_rng(3).random((5, 4)) < 0.5
    x = np.random.default_rng(4).normal(size=(3, 5)).astype(np.float32)

    def sums(params, x):
        return MaskedDense(4).apply({"params": params}, x, mask)

    got, pull_back = jax.vjp(sums, DENSE["params"], jnp.asarray(x))
    expected = [
        [x[e, mask[:, u]] @ KERNEL[mask[:, u], u] + BIAS[u] for u in range(4)] for e in (0, 1, 2)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    gradient = np.asarray(pull_back(jnp.ones((3, 4)))[0]["kernel"])
    np.testing.assert_allclose(gradient, np.where(mask, x.sum(0)[:, None], 0), rtol=1e-5)


# Noise on the input


def test_gaussian_noise_has_the_deviation_asked_for_in_training_alone():
    x = jnp.full((100, 200), 7.0)
    np.testing.assert_array_equal(GaussianNoise(0.5).apply({}, x, False), x)
    np.testing.assert_array_equal(GaussianNoise(0.0).apply({}, x, True), x)
    noise = np.asarray(noisy(GaussianNoise(0.5), x, True)) - 7
    assert abs(noise.mean()) < 5 * 0.5 / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(0.5, rel=0.03)


# Stochastic depth


def test_stochastic_depth_drops_an_example_s_whole_branch_and_keeps_the_mean():
    x = 1 + jax.random.uniform(jax.random.key(0), (4000, 2, 3))
    np.testing.assert_array_equal(StochasticDepth(0.3).apply({}, x, False), x)
    branch = np.asarray(noisy(StochasticDepth(0.3), x, True))
    there = (branch != 0).reshape(4000, 6)
    assert (there.all(1) | ~there.any(1)).all()
    assert there[:, 0].mean() == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / 4000))
    np.testing.assert_allclose(branch[there[:, 0]] * 0.7, x[there[:, 0]], rtol=1e-6)


def test_classic_stochastic_depth_scales_in_evaluation_what_it_leaves_alone_in_training():
    x = 1 + jax.random.uniform(jax.random.key(0), (400, 2, 3))
    layer = StochasticDepth(0.3, classic=True)
    np.testing.assert_allclose(layer.apply({}, x, False), 0.7 * x, rtol=1e-6)
    branch = np.asarray(noisy(layer, x, True))
    there = branch.any((1, 2))
    assert 0 < there.sum() < 400
    np.testing.assert_array_equal(branch[there], x[there])


# Drop-path


def active_inputs(columns, rate, count):
    """Which of `count` inputs a join keeps for each example, told by the mean of powers of two."""
    powers = jnp.tile(2.0 ** jnp.arange(count)[:, None], (1, len(columns)))
    means = np.asarray(noisy(DropPathJoin(rate), powers, jnp.asarray(columns)))
    subsets = np.arange(1, 2**count)
    kept = subsets[:, None] >> np.arange(count) & 1
    matches = np.isclose(means[:, None], subsets / kept.sum(1))
    assert (matches.sum(1) == 1).all()
    return kept[matches.argmax(1)].astype(bool)


def test_local_drop_path_keeps_each_input_at_its_rate_but_never_none():
    count, rate = 20_000, 0.4
    kept = active_inputs(np.full(count, LOCAL), rate, 3)
    assert kept.any(1).all()
    # Where all three would go, one of them stays.
    share = (1 - rate) + rate**3 / 3
    np.testing.assert_allclose(kept.mean(0), share, atol=5 * np.sqrt(0.25 / count))
    single = kept.sum(1) == 1
    expected = 3 * (1 - rate) * rate**2 + rate**3
    assert single.mean() == pytest.approx(expected, abs=5 * np.sqrt(0.25 / count))


def test_global_drop_path_keeps_the_chosen_column_and_evaluation_the_mean():
    kept = active_inputs(np.array([0, 1, 2, 3]), 0.4, 3)
    np.testing.assert_array_equal(kept[:3], np.eye(3, dtype=bool))
    assert kept[3].all()
    inputs = jax.random.normal(jax.random.key(0), (3, 2, 4))
    mean = DropPathJoin(0.4).apply({}, inputs, None)
    np.testing.assert_allclose(mean, np.mean(inputs, axis=0), rtol=1e-6)


def test_the_columns_of_global_drop_path_are_uniform_among_their_share():
    drawn = np.asarray(drop_path_columns(jax.random.key(0), 20_000, 4, 0.6))
    shares = [np.mean(drawn == column) for column in (LOCAL, 0, 1, 2, 3)]
    np.testing.assert_allclose(shares, [0.4, *[0.15] * 4], atol=5 * np.sqrt(0.25 / 20_000))


# All of them


def everything(x):
    """The output of every noisy layer for a batch `[batch, 5]`, as one pytree."""
    columns = drop_path_columns(jax.random.key(3), x.shape[0], 2, 0.5)
    layers = [Dropout(0.5), GaussianNoise(1.0), StochasticDepth(0.5)]
    return (
        *(noisy(layer, x, True) for layer in layers),
        noisy(DropConnectDense(4, 0.5), x, True, variables=DENSE),
        noisy(DropPathJoin(0.5), jnp.stack([x, 2 * x]), columns),
    )


def test_all_noise_is_the_same_on_eight_devices_as_on_one():
    x = jax.random.normal(jax.random.key(1), (16, 5))
    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec(AXIS)
    shared = jax.shard_map(everything, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, jax.jit(shared)(x), jax.jit(everything)(x))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_a_rate_out_of_range_is_refused(rate):
    x = jnp.ones((2, 5))
    for kind, layer, inputs in (
        ("dropout", Dropout(rate), (x, False)),
        ("dropconnect", DropConnectDense(4, rate), (x, False)),
        ("stochastic depth", StochasticDepth(rate), (x, False)),
        ("drop-path", DropPathJoin(rate), (x[None], None)),
    ):
        with pytest.raises(UsageError, match=f"a {kind} rate is at least 0 and below 1, not"):
            layer.init(jax.random.key(0), *inputs)


def test_a_deviation_that_is_none_and_a_share_above_one_are_refused():
    for deviation in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=f"a number from 0 on, not {deviation}"):
            GaussianNoise(deviation).apply({}, jnp.ones((2, 2)), False)
    with pytest.raises(UsageError, match="from 0 to 1, not 1.5"):
        drop_path_columns(jax.random.key(0), 2, 3, 1.5)
