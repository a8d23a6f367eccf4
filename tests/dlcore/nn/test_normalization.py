"""Batch normalisation against float64 NumPy, its own running averages, and other device layouts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from dlcore import parallel
from dlcore.nn.normalization import BatchNorm
from dlcore.parallel import AXIS
from tests.fixtures import cases

FEATURES = 6


def variables(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "scale": jnp.asarray(rng.uniform(0.5, 2, FEATURES), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=FEATURES), jnp.float32),
        },
        "batch_stats": {
            "mean": jnp.asarray(rng.normal(size=FEATURES), jnp.float32),
            "var": jnp.asarray(rng.uniform(0.5, 2, FEATURES), jnp.float32),
        },
    }


def inputs(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(2, 3, (*shape, FEATURES)), jnp.float32)


def wide(array):
    return np.asarray(array, np.float64)


def expected(x, scale, bias, mean, var, epsilon=1e-5):
    x, scale, bias, mean, var = (wide(a) for a in (x, scale, bias, mean, var))
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias


def test_it_starts_as_plain_normalisation():
    fresh = BatchNorm().init(jax.random.key(0), inputs(4), True)
    np.testing.assert_array_equal(fresh["params"]["scale"], np.ones(FEATURES))
    np.testing.assert_array_equal(fresh["params"]["bias"], np.zeros(FEATURES))
    np.testing.assert_array_equal(fresh["batch_stats"]["mean"], np.zeros(FEATURES))
    np.testing.assert_array_equal(fresh["batch_stats"]["var"], np.ones(FEATURES))


@pytest.mark.parametrize("shape", [(8,), (4, 3), (4, 5, 3)])
def test_training_normalises_by_the_batch(shape):
    state, x = variables(), inputs(*shape)
    y, _ = BatchNorm().apply(state, x, True, mutable=["batch_stats"])
    axes = tuple(range(x.ndim - 1))
    reference = expected(x, **state["params"], mean=wide(x).mean(axes), var=wide(x).var(axes))
    np.testing.assert_allclose(y, reference, rtol=1e-5, atol=1e-5)


def test_evaluation_normalises_by_the_running_averages():
    state, x = variables(), inputs(4, 3)
    y = BatchNorm().apply(state, x, False)
    reference = expected(x, **state["params"], **state["batch_stats"])
    np.testing.assert_allclose(y, reference, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(momentum=st.floats(0, 1), count=st.integers(2, 12))
def test_the_running_averages_move_towards_mean_and_unbiased_variance(momentum, count):
    state, x = variables(), inputs(count)
    _, moved = BatchNorm(momentum=momentum).apply(state, x, True, mutable=["batch_stats"])
    old, new = state["batch_stats"], moved["batch_stats"]
    mean, var = wide(x).mean(0), wide(x).var(0, ddof=1)
    np.testing.assert_allclose(
        new["mean"], momentum * old["mean"] + (1 - momentum) * mean, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        new["var"], momentum * old["var"] + (1 - momentum) * var, rtol=1e-4, atol=1e-5
    )


def test_a_large_mean_does_not_cancel_the_variance():
    # One pass in float32, E[x^2] - E[x]^2, would be off by more than the variance itself here.
    x = 1e4 + inputs(64)
    y, _ = BatchNorm().apply(variables(), x, True, mutable=["batch_stats"])
    reference = expected(x, **variables()["params"], mean=wide(x).mean(0), var=wide(x).var(0))
    np.testing.assert_allclose(y, reference, atol=2e-3)


def test_half_precision_goes_in_and_out_and_statistics_stay_float32():
    x = jnp.asarray(inputs(64), jnp.bfloat16)
    y, moved = BatchNorm().apply(variables(), x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype("float32")}
    reference = 0.9 * wide(variables()["batch_stats"]["mean"]) + 0.1 * wide(x).mean(0)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], reference, rtol=1e-5)


def test_it_equals_pytorch_s():
    case = {name: jnp.asarray(array) for name, array in cases.batch_norm().items()}
    stored = cases.load("batch_norm")
    params = {"scale": case["scale"], "bias": case["bias"]}
    statistics = {"mean": case["mean"], "var": case["var"]}

    def train(params, x):
        collections = {"params": params, "batch_stats": statistics}
        return BatchNorm().apply(collections, x, True, mutable=["batch_stats"])

    y, pull_back, moved = jax.vjp(train, params, case["x"], has_aux=True)
    gradients, gradient_x = pull_back(case["gradient"])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(y, stored["y"])
    close(gradient_x, stored["gradient_x"])
    close(gradients["scale"], stored["gradient_scale"])
    close(gradients["bias"], stored["gradient_bias"])
    close(moved["batch_stats"]["mean"], stored["mean"])
    close(moved["batch_stats"]["var"], stored["var"])
    evaluated = BatchNorm().apply({"params": params, "batch_stats": statistics}, case["x"], False)
    close(evaluated, stored["evaluated"])


def loss_gradient_and_state(state, x, target):
    """The summed loss's gradients for parameters and inputs, added up as a train step does."""

    def loss(params, x):
        collections = {**state, "params": params}
        y, moved = BatchNorm().apply(collections, x, True, mutable=["batch_stats"])
        return jnp.square(y - target).sum(), moved

    (total, moved), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        state["params"], x
    )
    return parallel.psum((total, gradients[0])), gradients[1], moved


@pytest.mark.parametrize("wrapper", ["shard_map", "pmap"])
def test_eight_devices_equal_one(wrapper):
    state, x, target = variables(), inputs(16, 3), inputs(16, 3, seed=2)
    single = loss_gradient_and_state(state, x, target)
    if wrapper == "shard_map":
        mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
        split, same = PartitionSpec(AXIS), PartitionSpec()
        several = jax.jit(
            jax.shard_map(
                loss_gradient_and_state,
                mesh=mesh,
                in_specs=(same, split, split),
                out_specs=(same, split, same),
                check_vma=False,
            )
        )(state, x, target)
    else:
        shares = [array.reshape(8, 2, 3, FEATURES) for array in (x, target)]
        sums, of_inputs, moved = jax.pmap(
            loss_gradient_and_state, axis_name=AXIS, in_axes=(None, 0, 0)
        )(state, *shares)
        first = jax.tree.map(lambda copies: copies[0], (sums, moved))
        several = first[0], of_inputs.reshape(x.shape), first[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), several, single
    )
