"""Normalizations against float64 NumPy, SciPy and PyTorch, and on other device layouts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from scipy import ndimage

from dlcore import parallel
from dlcore.errors import UsageError
from dlcore.nn import normalization
from dlcore.nn.normalization import (
    BatchNorm,
    divisive_normalization,
    local_contrast_normalization,
    local_response_normalization,
    subtractive_normalization,
)
from dlcore.parallel import AXIS
from tests.fixtures import cases, layer_cases

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


def test_it_starts_as_plain_normalization():
    fresh = BatchNorm().init(jax.random.key(0), inputs(4), True)
    np.testing.assert_array_equal(fresh["params"]["scale"], np.ones(FEATURES))
    np.testing.assert_array_equal(fresh["params"]["bias"], np.zeros(FEATURES))
    np.testing.assert_array_equal(fresh["batch_stats"]["mean"], np.zeros(FEATURES))
    np.testing.assert_array_equal(fresh["batch_stats"]["var"], np.ones(FEATURES))


@pytest.mark.parametrize("shape", [(8,), (4, 3), (4, 5, 3)])
def test_training_normalizes_by_the_batch(shape):
    state, x = variables(), inputs(*shape)
    y, _ = BatchNorm().apply(state, x, True, mutable=["batch_stats"])
    axes = tuple(range(x.ndim - 1))
    reference = expected(x, **state["params"], mean=wide(x).mean(axes), var=wide(x).var(axes))
    np.testing.assert_allclose(y, reference, rtol=1e-5, atol=1e-5)


def test_evaluation_normalizes_by_the_running_averages():
    state, x = variables(), inputs(4, 3)
    y = BatchNorm().apply(state, x, False)
    reference = expected(x, **state["params"], **state["batch_stats"])
    np.testing.assert_allclose(y, reference, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(momentum=st.floats(0, 1), count=st.integers(2, 12))
def test_the_running_averages_move_toward_mean_and_unbiased_variance(momentum, count):
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
    case = {name: jnp.asarray(array) for name, array in layer_cases.batch_norm().items()}
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


# Local response normalization


def test_local_response_normalization_equals_pytorch_s_but_for_its_alpha():
    case, stored = layer_cases.local_response(), cases.load("local_response")
    for row, (size, k, alpha, beta) in enumerate(case["constants"]):
        layer = functools.partial(
            local_response_normalization, size=int(size), k=k, alpha=alpha, beta=beta
        )
        y, pull_back = jax.vjp(jax.jit(layer), jnp.asarray(case["x"]))
        np.testing.assert_allclose(y, stored["y"][row], rtol=1e-5)
        (gradient,) = pull_back(jnp.asarray(case["gradient"]))
        np.testing.assert_allclose(gradient, stored["gradient_x"][row], rtol=1e-4, atol=1e-6)


def test_the_constants_of_local_response_normalization_are_alexnet_s():
    # One channel of 1000 among zeros: 1000 / (2 + 1e-4 * 1e6) ** 0.75 of itself is left.
    x = jnp.zeros((1, 9)).at[0, 4].set(1000.0)
    y = np.asarray(local_response_normalization(x))
    np.testing.assert_allclose(y[0, 4], 1000 / 102**0.75, rtol=1e-6)
    # Two channels away it still divides, three channels away no longer.
    near, far = (local_response_normalization(x.at[0, 4 + d].set(1.0))[0, 4 + d] for d in (2, 3))
    assert near == pytest.approx(102**-0.75, rel=1e-4)
    assert far == pytest.approx(2**-0.75, rel=1e-4)


# Local contrast normalization

contrast_normalized = jax.jit(local_contrast_normalization, static_argnames="size")


def local_mean(x, size):
    """The mean over channels, then under the window; at the border, of what is inside."""
    offsets = np.arange(size) - size // 2
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (size / 4) ** 2))
    correlate = functools.partial(ndimage.correlate, weights=window, mode="constant")
    means = [correlate(image.mean(-1)) / correlate(np.ones(image.shape[:2])) for image in x]
    return np.stack(means)[..., None]


@pytest.mark.parametrize("size", [3, 9])
def test_local_contrast_normalization_equals_scipy_s_correlations(size):
    x = inputs(2, 7, 6)
    centered = wide(x) - local_mean(wide(x), size)
    subtractive, divisive = jax.jit(
        lambda x: (subtractive_normalization(x, size), divisive_normalization(x, size))
    )(x)
    np.testing.assert_allclose(subtractive, centered, atol=1e-5)
    deviation = np.sqrt(local_mean(wide(x) ** 2, size))
    divisor = np.maximum(deviation, deviation.mean((1, 2), keepdims=True))
    np.testing.assert_allclose(divisive, wide(x) / divisor, rtol=1e-5)
    deviation = np.sqrt(local_mean(centered**2, size))
    divisor = np.maximum(deviation, deviation.mean((1, 2), keepdims=True))
    both = contrast_normalized(x, size)
    np.testing.assert_allclose(both, centered / divisor, rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_local_contrast_normalization_forgets_brightness_and_contrast(shift, scale):
    x = inputs(1, 7, 6)
    expected = contrast_normalized(x)
    changed = contrast_normalized(scale * x + shift)
    np.testing.assert_allclose(changed, expected, rtol=1e-3, atol=1e-3)


def test_an_image_without_contrast_becomes_zero_and_has_a_gradient():
    flat = jnp.full((1, 7, 6, FEATURES), 3.0)
    # Of the rounding errors of subtraction not more is made than the division's bound allows.
    np.testing.assert_allclose(contrast_normalized(flat), 0, atol=1e-2)

    def energy(x):
        return jnp.square(divisive_normalization(x, size=3)).sum()

    assert np.isfinite(jax.jit(jax.grad(energy))(jnp.zeros((1, 6, 6, 2)))).all()


@pytest.mark.parametrize(
    "normalize",
    [local_response_normalization, subtractive_normalization, divisive_normalization],
)
def test_a_window_without_a_center_is_refused(normalize):
    with pytest.raises(UsageError, match="an odd number, not 4"):
        normalize(jnp.ones((1, 6, 6, 2)), size=4)


# By name


class Named(nn.Module):
    """The normalization that a model's option names."""

    name_of_it: str

    @nn.compact
    def __call__(self, x, train):
        return normalization.normalization(self.name_of_it)(x, train, "norm")


def by_name(name, x, train=False):
    run = jax.jit(lambda key, x: Named(name).init_with_output(key, x, train)[0])
    return run(jax.random.key(0), x)


def normalized_over(x, groups):
    """Each example's groups of channels, made zero mean and unit variance."""
    grouped = wide(x).reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, var = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)


@pytest.mark.parametrize("shape", [(4,), (4, 5, 3)])
def test_layer_and_group_normalization_are_over_the_units_of_an_example(shape):
    x = 100 + inputs(*shape)
    for name, groups in (("layer", 1), ("group:1", 1), ("group:3", 3), ("group:2", 2)):
        np.testing.assert_allclose(by_name(name, x), normalized_over(x, groups), atol=1e-3)


def test_a_name_gives_the_normalization_of_that_name():
    x = inputs(2, 7, 5)
    np.testing.assert_array_equal(by_name("none", x), x)
    np.testing.assert_allclose(by_name("batch", x, True).mean((0, 1, 2)), 0, atol=1e-5)
    for name, function in (
        ("local_response", local_response_normalization),
        ("subtractive", subtractive_normalization),
        ("divisive", divisive_normalization),
        ("local_contrast", local_contrast_normalization),
    ):
        np.testing.assert_allclose(by_name(name, x), jax.jit(function)(x), rtol=1e-6)


def test_it_stands_before_or_after_the_activation_function():
    for position, whole in (("before", "first"), ("after", "second")):
        pair = normalization.placed("local_response", position)
        x = inputs(1, 2, 2)
        changed = [not np.array_equal(part(x, False, "norm"), x) for part in pair]
        assert changed == [whole == "first", whole == "second"]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("bacth", (2,), "unknown normalization 'bacth': it is one of none, batch, layer, group"),
        ("group", (2,), "unknown normalization 'group'"),
        ("group:0", (2,), "unknown normalization 'group:0'"),
        ("group:4", (2,), "6 channels do not divide into so many"),
        ("local_contrast", (2,), "needs feature maps"),
        ("local_response", (2, 3), "needs feature maps"),
    ],
)
def test_a_normalization_that_is_unknown_or_does_not_fit_is_refused(name, shape, message):
    with pytest.raises(UsageError, match=message):
        by_name(name, inputs(*shape))


def test_a_position_that_is_neither_before_nor_after_is_refused():
    with pytest.raises(UsageError, match="normalize is before or after .*, not 'between'"):
        normalization.placed("batch", "between")


# Of constants: what is left of one after its mean is rounding, which no division may enlarge.


@pytest.mark.parametrize("value", [0.1, 3.0, 255.0, 1e4, 1e7, -1234.567, 1e-7])
@pytest.mark.parametrize("name", ["batch", "layer", "group:3", "subtractive", "local_contrast"])
def test_a_constant_image_is_normalized_to_zero_at_any_value(name, value):
    flat = jnp.full((3, 7, 11, FEATURES), value)
    np.testing.assert_allclose(by_name(name, flat, train=True), 0, atol=1e-6)


def test_each_constant_channel_is_normalized_to_zero():
    flat = jnp.full((3, 7, 11, 1), 1.0) * jnp.array([0.1, 255, 1e4, 1e7, -3.3, 0.7])
    np.testing.assert_allclose(by_name("batch", flat, train=True), 0, atol=1e-6)
    np.testing.assert_allclose(by_name("group:6", flat), 0, atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("name", ["layer", "group:3"])
def test_layer_and_group_normalization_are_those_of_float64(name, offset):
    x = np.float32(offset + np.random.default_rng(0).normal(size=(3, 5, 4, FEATURES)))
    groups = 1 if name == "layer" else 3
    parts = np.float64(x).reshape(3, -1, groups, FEATURES // groups)
    mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    expected = ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(by_name(name, jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)


def test_the_subtraction_s_gradient_is_that_of_its_difference_for_a_constant_too():
    direction = inputs(1, 7, 6)
    flat = jnp.full(direction.shape, 1e4)
    _, moved = jax.jvp(subtractive_normalization, (flat,), (direction,))
    expected = wide(direction) - local_mean(wide(direction), 9)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_a_normalization_of_one_value_is_refused():
    state = variables()
    with pytest.raises(UsageError, match="one value a feature .* raise batch_size, lower accum"):
        BatchNorm().apply(state, jnp.ones((1, FEATURES)), True, mutable=["batch_stats"])
    # In evaluation it is none of the batch's business; two values are few, but some.
    BatchNorm().apply(state, jnp.ones((1, FEATURES)), False)
    BatchNorm().apply(state, jnp.ones((1, 2, FEATURES)), True, mutable=["batch_stats"])
    for name, units in (("layer", 1), ("group:6", 6)):
        with pytest.raises(UsageError, match=f"normalization='{name}' sees one number"):
            by_name(name, jnp.ones((3, units)))
