"""The residual network of fully connected layers: its equation, its shortcuts, stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.errors import UsageError

IMAGES = jax.random.normal(jax.random.key(1), (4, 3, 3, 1))
SMALL = {"hidden": 6, "blocks": 2}
# Those of a network of one block.
LAYERS = ["stem", "block0_hidden0", "block0_hidden1"]


def drawn(model, seed=0):
    """Parameters whose biases are not zero."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def test_a_block_adds_its_input_to_the_second_layer_s_sums():
    model = models.create("residual_mlp", activation="tanh", **SMALL)
    params = drawn(model)
    names = [*LAYERS, "block1_hidden0", "block1_hidden1", "logits"]
    layers = [(params[name]["kernel"].astype(float), params[name]["bias"]) for name in names]
    (kernel, bias), *pairs, (last_kernel, last_bias) = layers
    h = np.tanh(np.asarray(IMAGES, np.float64).reshape(4, 9) @ kernel + bias)
    for (first, first_bias), (second, second_bias) in (pairs[:2], pairs[2:]):
        h = np.tanh(np.tanh(h @ first + first_bias) @ second + second_bias + h)
    logits = model.apply({"params": params}, IMAGES)
    np.testing.assert_allclose(logits, h @ last_kernel + last_bias, rtol=1e-4, atol=1e-5)


def test_the_shortcuts_have_no_parameters():
    plain = models.create("mlp", hidden=(128,) * 9)
    shapes = jax.eval_shape(plain.init, jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == models.entry("residual_mlp").parameter_count


@pytest.mark.parametrize("position", ["before", "after"])
def test_normalization_stands_before_the_shortcut_joins_or_after_the_activation(position):
    options = {"hidden": 6, "blocks": 1, "normalization": "batch", "normalize": position}
    model = models.create("residual_mlp", **options)
    images = jax.random.normal(jax.random.key(2), (16, 3, 3, 1))
    params = drawn(model)
    logits, _ = model.apply({"params": params}, images, True, mutable=["batch_stats"])

    def normal(x, index):
        own = params[f"{LAYERS[index]}_norm"]
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * own["scale"] + own["bias"]

    def unit(x, index, shortcut=0.0):
        x = x @ params[LAYERS[index]]["kernel"].astype(float)
        x = x + params[LAYERS[index]].get("bias", 0)
        if position == "before":
            return np.maximum(normal(x, index) + shortcut, 0)
        return normal(np.maximum(x + shortcut, 0), index)

    h = unit(np.asarray(images, np.float64).reshape(16, 9), 0)
    h = unit(unit(h, 1), 2, shortcut=h)
    last = params["logits"]
    np.testing.assert_allclose(logits, h @ last["kernel"] + last["bias"], rtol=1e-3, atol=1e-3)


def test_the_rate_of_stochastic_depth_grows_in_equal_steps_to_that_of_the_last_block():
    model = models.create("residual_mlp", hidden=6, blocks=4, stochastic_depth_rate=0.8)
    images = jnp.tile(IMAGES, (500, 1, 1, 1))
    _, found = jax.jit(
        lambda params: model.apply(
            {"params": params},
            images,
            True,
            rngs={"dropout": jax.random.key(0)},
            capture_intermediates=lambda module, _: "StochasticDepth" in (module.name or ""),
        )
    )(drawn(model))
    for block, rate in enumerate((0.2, 0.4, 0.6, 0.8)):
        (branch,) = found["intermediates"][f"StochasticDepth_{block}"]["__call__"]
        dropped = np.mean(~np.any(branch, axis=1))
        assert dropped == pytest.approx(rate, abs=5 * np.sqrt(0.25 / 2000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"stochastic_depth_rate": 1.5},
            "stochastic_depth_rate=1.5: it must be at least 0 and below 1",
        ),
        ({"activation": "maxout"}, "activation='maxout' changes the number of units"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(
            models.create("residual_mlp", **SMALL, **options).init, jax.random.key(0), IMAGES
        )
