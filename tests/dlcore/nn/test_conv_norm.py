"""The layers against Flax's convolution and this library's batch normalization around it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from dlcore import parallel
from dlcore.errors import UsageError
from dlcore.nn import conv_norm
from dlcore.nn.conv_norm import (
    ConvNorm,
    Measured,
    MeasuredConv,
    Norm,
    Pending,
    PendingConvNorm,
    PendingNorm,
    concatenate,
    measure,
)
from dlcore.nn.normalization import MOMENTS, BatchNorm
from dlcore.nn.pooling import max_pool

INPUTS, FEATURES = 3, 5


class Apart(nn.Module):
    """The same as two layers and a function."""

    kernel_size: int
    strides: int
    activation: str

    @nn.compact
    def __call__(self, x, train, residual=None):
        size, padding = (self.kernel_size, self.kernel_size), self.kernel_size // 2
        y = nn.Conv(FEATURES, size, self.strides, padding, use_bias=False, name="conv")(x)
        y = BatchNorm(name="norm")(y, train)
        y = y if residual is None else y + residual
        return nn.relu(y) if self.activation == "relu" else y


def apart(variables):
    """The layer's variables in the form of `Apart`."""
    params = dict(variables["params"])
    kernel = params.pop("kernel")
    return {
        "params": {"conv": {"kernel": kernel}, "norm": params},
        "batch_stats": {"norm": variables["batch_stats"]},
    }


def drawn(*shape, seed=0, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(0.3, 1, shape), dtype)


def variables(size=3, inputs=INPUTS, seed=1):
    vectors = [drawn(FEATURES, seed=seed + number) for number in range(4)]
    return {
        "params": {
            "kernel": drawn(size, size, inputs, FEATURES, seed=seed + 4) / size,
            "scale": 1 + vectors[0] / 4,
            "bias": vectors[1],
        },
        "batch_stats": {"mean": vectors[2], "var": jnp.exp(vectors[3])},
    }


close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
)


def test_it_starts_as_plain_normalization_of_a_kernel_with_he_s_variance_by_fan_out():
    fresh = ConvNorm(256).init(jax.random.key(0), jnp.zeros((1, 2, 2, 64)), train=False)
    assert fresh["params"]["kernel"].shape == (3, 3, 64, 256)
    np.testing.assert_allclose(fresh["params"]["kernel"].var(), 2 / (3 * 3 * 256), rtol=0.02)
    np.testing.assert_array_equal(fresh["params"]["scale"], np.ones(256))
    np.testing.assert_array_equal(fresh["params"]["bias"], np.zeros(256))
    np.testing.assert_array_equal(fresh["batch_stats"]["mean"], np.zeros(256))
    np.testing.assert_array_equal(fresh["batch_stats"]["var"], np.ones(256))


@pytest.mark.parametrize(
    ("size", "strides", "activation", "with_residual"),
    [(3, 1, "relu", True), (3, 2, "relu", False), (1, 2, "none", False), (7, 2, "relu", False)],
)
def test_it_is_a_convolution_a_normalization_and_an_activation(
    size, strides, activation, with_residual
):
    x, state = drawn(4, 7, 6, INPUTS), variables(size)
    residual = drawn(4, 7, 6, FEATURES, seed=9) if with_residual else None
    layer = ConvNorm(FEATURES, size, strides, activation)
    two_layers = Apart(size, strides, activation)

    def trained(module, params, x, residual):
        collections = {**params, MOMENTS: {}}
        y, moved = module.apply(collections, x, True, residual, mutable=["batch_stats", MOMENTS])
        return jnp.vdot(y, jnp.cos(jnp.arange(y.size)).reshape(y.shape)), (y, moved)

    run = jax.value_and_grad(trained, argnums=(1, 2, 3), has_aux=True)
    run = jax.jit(run, static_argnums=0)
    (_, (y, moved)), (gradients, *others) = run(layer, state, x, residual)
    expected = run(two_layers, apart(state), x, residual)
    (_, (expected_y, expected_moved)), (expected_gradients, *expected_others) = expected
    close((y, others), (expected_y, expected_others))
    close(apart(gradients)["params"], expected_gradients["params"])
    for collection in ("batch_stats", MOMENTS):
        close(moved[collection], expected_moved[collection]["norm"])
    evaluated = two_layers.apply(apart(state), x, False, residual)
    close(layer.apply(state, x, False, residual), evaluated)


class Chain(nn.Module):
    """Two layers."""

    first: type[nn.Module]

    @nn.compact
    def __call__(self, x, train):
        x = self.first(FEATURES, 1, name="first")(x, train)
        assert isinstance(x, Pending) == (self.first is PendingConvNorm and train)
        return ConvNorm(FEATURES, 3, 2, name="second")(x, train)


def test_what_is_handed_on_is_normalized_by_the_layer_that_reads_it():
    x = drawn(4, 5, 6, INPUTS)
    layers = {"first": variables(1), "second": variables(3, inputs=FEATURES, seed=20)}
    state = {
        name: {layer: own[name] for layer, own in layers.items()}
        for name in ("params", "batch_stats")
    }

    def trained(first, params):
        y, moved = Chain(first).apply({**state, "params": params}, x, True, mutable=["batch_stats"])
        return jnp.vdot(y, jnp.cos(jnp.arange(y.size)).reshape(y.shape)), (y, moved)

    run = jax.jit(jax.value_and_grad(trained, argnums=1, has_aux=True), static_argnums=0)
    close(*(run(first, state["params"]) for first in (PendingConvNorm, ConvNorm)))
    handed, finished = (
        Chain(first).apply(state, x, False) for first in (PendingConvNorm, ConvNorm)
    )
    np.testing.assert_array_equal(handed, finished)


class Biased(nn.Module):
    """A convolution with a bias, a normalization and ReLU, as layers of their own."""

    @nn.compact
    def __call__(self, x, train):
        y = nn.Conv(FEATURES, (3, 3), padding=1, name="conv")(x)
        return nn.relu(BatchNorm(epsilon=1e-2, name="norm")(y, train))


@pytest.mark.parametrize("layer", [ConvNorm, PendingConvNorm])
def test_a_bias_of_the_convolution_moves_the_running_mean_and_nothing_else(layer):
    x, state = drawn(4, 7, 6, INPUTS), variables()
    state["params"]["conv_bias"] = drawn(FEATURES, seed=30)
    apart_state = apart(state)
    conv_bias = apart_state["params"]["norm"].pop("conv_bias")
    apart_state["params"]["conv"]["bias"] = conv_bias
    ours = layer(FEATURES, epsilon=1e-2, use_bias=True)

    def trained(module, params, state):
        y, moved = module.apply({**state, "params": params}, x, True, mutable=["batch_stats"])
        y = conv_norm.normalize(*y) if isinstance(y, Pending) else y
        return jnp.vdot(y, jnp.cos(jnp.arange(y.size)).reshape(y.shape)), (y, moved)

    run = jax.jit(jax.grad(trained, argnums=1, has_aux=True), static_argnums=0)
    gradients, (y, moved) = run(ours, state["params"], state)
    expected = run(Biased(), apart_state["params"], apart_state)
    expected_gradients, (expected_y, expected_moved) = expected
    close(y, expected_y)
    close(moved["batch_stats"], expected_moved["batch_stats"]["norm"])
    np.testing.assert_array_equal(gradients.pop("conv_bias"), np.zeros(FEATURES))
    # Theirs is what rounding leaves.
    expected_gradients["conv"].pop("bias")
    close(apart({"params": gradients, "batch_stats": {}})["params"], expected_gradients)
    close(ours.apply(state, x, False), Biased().apply(apart_state, x, False))


@pytest.mark.parametrize("layer", [ConvNorm, PendingConvNorm, MeasuredConv])
def test_a_kernel_begins_as_it_is_told_to(layer):
    given = nn.initializers.constant(0.25)
    fresh = layer(4, kernel_init=given).init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)), False)
    np.testing.assert_array_equal(fresh["params"]["kernel"], np.full((3, 3, 3, 4), 0.25))
    spread = layer(256).init(jax.random.key(0), jnp.zeros((1, 2, 2, 64)), False)
    np.testing.assert_allclose(spread["params"]["kernel"].var(), 2 / (9 * 256), rtol=0.02)


class Ahead(nn.Module):
    """Layers that normalize first; the last one reads three results beside each other."""

    @nn.compact
    def __call__(self, x, train):
        first = MeasuredConv(FEATURES, 3, 2, name="first")(x, train)
        active = PendingNorm(epsilon=1e-2, name="norm1")(first, train)
        assert isinstance(active, Pending) == train
        second = PendingConvNorm(FEATURES, 1, name="second")(active, train)
        third = MeasuredConv(FEATURES, 3, name="third")(second, train)
        pooled = max_pool(first.values, (3, 3), (1, 1), ((1, 1), (1, 1)))
        joined = concatenate((first, third, measure(pooled, train)))
        return Norm("none", 0.7, name="norm2")(joined, train)


class AheadApart(nn.Module):
    """The same of Flax's convolutions, with statistics that each normalization gathers."""

    @nn.compact
    def __call__(self, x, train):
        def convolve(x, size, name, strides=1):
            window, padding = (size, size), size // 2
            return nn.Conv(FEATURES, window, strides, padding, use_bias=False, name=name)(x)

        first = convolve(x, 3, "first", 2)
        second = nn.relu(BatchNorm(epsilon=1e-2, name="norm1")(first, train))
        second = BatchNorm(name="second_norm")(convolve(second, 1, "second"), train)
        third = convolve(nn.relu(second), 3, "third")
        pooled = max_pool(first, (3, 3), (1, 1), ((1, 1), (1, 1)))
        joined = jnp.concatenate([first, third, pooled], axis=-1)
        return BatchNorm(0.7, name="norm2")(joined, train)


def ahead_variables(x):
    shapes = jax.eval_shape(lambda: Ahead().init(jax.random.key(0), x, False))

    def draw(path, leaf):
        numbers = drawn(*leaf.shape, seed=len(jax.tree_util.keystr(path)))
        return {"scale": 1 + numbers / 4, "var": jnp.exp(numbers)}.get(path[-1].key, numbers)

    return jax.tree.map_with_path(draw, shapes)


def by_layer(collection):
    """The arrays of a collection of either by the layer of `AheadApart` that they are of."""
    found = flatten_dict(collection, sep="/")
    second = {"scale", "bias", "mean", "var"}
    renamed = {
        path.replace("second/", "second_norm/") if path.split("/")[-1] in second else path: array
        for path, array in found.items()
    }
    return dict(sorted(renamed.items()))


def descended(module, state, x):
    """In training: the sum's gradients, its output and what has moved; in evaluation the output."""

    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def trained(params, x):
        collections = {**state, "params": params, MOMENTS: {}}
        y, moved = module.apply(collections, x, True, mutable=["batch_stats", MOMENTS])
        return jnp.vdot(y, jnp.cos(jnp.arange(y.size)).reshape(y.shape)), (y, moved)

    (gradients, of_x), (y, moved) = jax.jit(trained)(state["params"], x)
    collections = [by_layer(own) for own in (gradients, *moved.values())]
    return collections, of_x, y, jax.jit(module.apply, static_argnums=2)(state, x, False)


def test_layers_that_normalize_first_are_normalizations_and_convolutions():
    x = drawn(4, 7, 6, INPUTS)
    state = ahead_variables(x)
    renamed = {
        kind: unflatten_dict(by_layer(collection), sep="/") for kind, collection in state.items()
    }
    close(descended(Ahead(), state, x), descended(AheadApart(), renamed, x))


def test_the_statistics_of_a_channel_are_gathered_once(monkeypatch):
    gathered = []

    def gather(values):
        gathered.append(values.shape)
        return jnp.zeros(values.shape[-1]), jnp.ones(values.shape[-1])

    monkeypatch.setattr(conv_norm, "batch_statistics", gather)
    x = drawn(4, 7, 6, INPUTS)
    state = ahead_variables(x)
    train = functools.partial(Ahead().apply, train=True, mutable=["batch_stats"])
    jax.eval_shape(train, state, x)
    assert gathered == [(4, 4, 3, FEATURES)]  # Of what was pooled.
    jax.eval_shape(functools.partial(Ahead().apply, train=False), state, x)
    assert len(gathered) == 1


def test_what_comes_without_statistics_is_measured_by_who_normalizes_it():
    x = drawn(4, 5, 6, FEATURES)
    known, unknown = measure(x, True), Measured(x, None)
    state = {collection: dict(own) for collection, own in variables().items()}
    del state["params"]["kernel"]
    results = [
        Norm().apply(state, given, True, mutable=["batch_stats"])
        for given in (x, known, unknown, concatenate([known]))
    ]
    for result in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, result, results[0])
    both = concatenate([known, unknown])
    assert both.values.shape == (4, 5, 6, 2 * FEATURES)
    assert both.statistics is None
    assert measure(x, False).statistics is None


def test_an_even_kernel_is_refused_by_every_layer():
    for layer in (ConvNorm(4, 2), PendingConvNorm(4, 2), MeasuredConv(4, 2)):
        with pytest.raises(UsageError, match="kernel_size=2: it must be odd"):
            layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), False)


@pytest.mark.parametrize("layer", [ConvNorm(FEATURES), Ahead()])
def test_half_precision_goes_in_and_out_and_statistics_stay_float32(layer):
    x = drawn(4, 6, 6, INPUTS, dtype="bfloat16")
    wide = x.astype(jnp.float32)
    state = variables() if isinstance(layer, ConvNorm) else ahead_variables(wide)
    train = functools.partial(layer.apply, train=True, mutable=["batch_stats"])
    y, moved = train(state, x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype("float32")}
    exact, _ = train(state, wide)
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05)
    evaluated = layer.apply(state, x, False)
    assert evaluated.dtype == jnp.bfloat16


@pytest.mark.parametrize("layout", ["pmap", "data"])
@pytest.mark.parametrize("layer", [ConvNorm(FEATURES), Ahead()])
def test_two_devices_equal_one(layout, layer):
    batch = {"image": drawn(4, 5, 6, INPUTS)}
    state = variables() if isinstance(layer, ConvNorm) else ahead_variables(batch["image"])
    shape = jax.eval_shape(functools.partial(layer.apply, train=False), state, batch["image"]).shape
    batch["weight"] = drawn(*shape, seed=9)

    def step(state, batch):
        """The gradients where the parameters were, and the sum that they belong to."""

        def loss(params):
            collections = {**state, "params": params}
            y, moved = layer.apply(collections, batch["image"], True, mutable=["batch_stats"])
            return jnp.vdot(y, batch["weight"]), moved

        (total, moved), gradients = jax.value_and_grad(loss, has_aux=True)(state["params"])
        return {"params": parallel.psum(gradients), **moved}, parallel.psum(total)

    def run(layout):
        # The step takes the state's memory.
        placed = layout.place_state(
            jax.device_put(jax.device_get(state), layout.state_shardings(state))
        )
        new, total = layout.compile_step(step, state)(placed, layout.place_batch(batch))
        return jax.device_get(layout.canonical_state(new)), layout.to_host(total)

    close(run(parallel.make(layout, devices=jax.devices()[:2])), run(parallel.make("jit")))
