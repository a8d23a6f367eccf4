"""The layer against Flax's convolution and this library's batch normalization after it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import parallel
from dlcore.nn.conv_norm import ConvNorm, Pending, PendingConvNorm
from dlcore.nn.normalization import MOMENTS, BatchNorm

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


def test_half_precision_goes_in_and_out_and_statistics_stay_float32():
    x = drawn(4, 6, 6, INPUTS, dtype="bfloat16")
    y, moved = ConvNorm(FEATURES).apply(variables(), x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype("float32")}
    exact, _ = ConvNorm(FEATURES).apply(
        variables(), x.astype(jnp.float32), True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(y, exact, atol=0.05)
    evaluated = ConvNorm(FEATURES).apply(variables(), x, False)
    assert evaluated.dtype == jnp.bfloat16


@pytest.mark.parametrize("layout", ["pmap", "data"])
def test_two_devices_equal_one(layout):
    state = variables()
    batch = {"image": drawn(4, 5, 6, INPUTS), "weight": drawn(4, 5, 6, FEATURES, seed=9)}

    def step(state, batch):
        """The gradients where the parameters were, and the sum that they belong to."""

        def loss(params):
            collections = {**state, "params": params}
            y, moved = ConvNorm(FEATURES).apply(
                collections, batch["image"], True, mutable=["batch_stats"]
            )
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
