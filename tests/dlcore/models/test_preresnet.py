"""Residual networks that activate first against PyTorch, and counted by hand."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.analysis import counts
from dlcore.errors import UsageError
from dlcore.models.preresnet import PreActivationBlock
from dlcore.nn import backbone
from dlcore.nn.conv_norm import ConvNorm
from dlcore.nn.regularization import Dropout
from tests import networks
from tests.fixtures import equality, normalized_cases


def create(name, **options):
    return models.create(name, blocks=normalized_cases.RESIDUAL_BLOCKS, **options)


@pytest.mark.parametrize("mode", ["evaluated", "trained"])
@pytest.mark.parametrize(
    ("case", "name", "options"),
    [
        ("preactivation", "preresnet20_cifar", {}),
        pytest.param("wide", "wrn28_10", {"width": 2}, marks=pytest.mark.slow),
        pytest.param("own_projection", "uva_preresnet_cifar", {}, marks=pytest.mark.slow),
    ],
)
def test_logits_and_gradients_are_pytorch_s(case, name, options, mode):
    equality.assert_equal(create(name, **options), case, mode)


def counted_by_hand(blocks, width, shortcut, ends):
    """Parameters of a network of three stages: a kernel a convolution, two numbers a channel."""
    total, inputs = 9 * 3 * 16, 16
    for features in (16 * width, 32 * width, 64 * width):
        for _ in range(blocks):
            total += 2 * inputs + 9 * inputs * features + 2 * features + 9 * features**2
            if inputs != features and shortcut != "zeros":
                total += inputs * features + (2 * inputs if shortcut == "own_projection" else 0)
            inputs = features
    return total + (2 * inputs if ends else 0) + inputs * 10 + 10


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        # 432 for the first kernel; kernels of 13,824 + 50,688 + 202,752; scales and shifts of
        # 192 + 352 + 704 in the blocks and 128 behind them; 650 for the logits: 269,722.
        ("preresnet20_cifar", (3, 1, "zeros", True)),
        ("wrn16_8", (2, 8, "projection", True)),
        ("wrn28_10", (4, 10, "projection", True)),
        ("wrn40_4", (6, 4, "projection", True)),
        # Not 128 behind the blocks, but projections of 512 + 2,048 behind 32 + 64: 272,250.
        ("uva_preresnet_cifar", (3, 1, "own_projection", False)),
    ],
)
def test_a_network_is_counted_stage_by_stage(name, layout):
    assert models.entry(name).parameter_count == counted_by_hand(*layout)


def test_activating_first_costs_no_parameter_and_no_multiply_add():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    first, last = map(models.create, ("preresnet20_cifar", "resnet20_cifar"))
    assert counts.of_model(first, image) == counts.of_model(last, image)


@pytest.mark.parametrize(("name", "layers"), [("wrn16_8", 16), ("wrn28_10", 28), ("wrn40_4", 40)])
def test_the_name_counts_the_projections_as_layers(name, layers):
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    params = jax.eval_shape(models.create(name).init, jax.random.key(0), images)["params"]
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    assert len(kernels) == layers


def test_stages_halve_height_and_width_and_double_the_channels():
    model = models.create("wrn16_8")
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    assert {name: stage.shape for name, stage in stages.items()} == {
        "stem": (2, 32, 32, 16),
        "stage1": (2, 32, 32, 128),
        "stage2": (2, 16, 16, 256),
        "stage3": (2, 8, 8, 512),
        "pooled": (2, 512),
    }


NETWORK = normalized_cases.preactivation()
VARIABLES = networks.variables(NETWORK, batch_stats=NETWORK.averages)


def test_nothing_stands_on_the_way_of_a_sum():
    # Without branches a block gives the first activation, where it keeps the shape.
    params = dict(VARIABLES["params"])
    for block in ("stage1_block0", "stage1_block1", "stage2_block0"):
        silent = {"kernel": jnp.zeros_like(params[block]["conv2"]["kernel"])}
        params[block] = {**params[block], "conv2": silent}
    model, images = create("preresnet20_cifar"), jnp.asarray(NETWORK.images)
    apply = functools.partial(backbone.collect, model)
    _, stages = jax.jit(apply)({**VARIABLES, "params": params}, images)
    norm, averages = params["stage1_block0"]["norm1"], NETWORK.averages["stage1_block0/norm1"]
    factor = norm["scale"] / np.sqrt(averages["var"] + 1e-5)
    activated = jax.nn.relu((stages["stem"] - averages["mean"]) * factor + norm["bias"])
    np.testing.assert_allclose(stages["stage1"], activated, rtol=1e-5, atol=1e-5)
    # The last sum is normalized and activated: new channels are what zeros become by that.
    norm, averages = params["norm"], NETWORK.averages["norm"]
    summed = np.pad(activated[:, ::2, ::2], [(0, 0)] * 3 + [(0, 16)])
    factor = norm["scale"] / np.sqrt(averages["var"] + 1e-5)
    expected = jax.nn.relu((summed - averages["mean"]) * factor + norm["bias"])
    np.testing.assert_allclose(stages["stage2"], expected, rtol=1e-4, atol=1e-5)


def test_dropout_stands_between_a_block_s_convolutions_in_training_alone():
    model, plain = (create("preresnet20_cifar", dropout_rate=rate) for rate in (0.3, 0.0))
    images = jnp.asarray(NETWORK.images)
    evaluated = jax.jit(lambda: (model.apply(VARIABLES, images), plain.apply(VARIABLES, images)))
    np.testing.assert_allclose(*evaluated(), rtol=1e-5, atol=1e-5)
    found = networks.handed_on(model, VARIABLES, images, (ConvNorm, Dropout))
    for block in ("stage1_block0", "stage1_block1", "stage2_block0"):
        hidden, left = np.asarray(found[f"{block}/conv1"]), np.asarray(found[f"{block}/dropout"])
        assert hidden.min() == 0
        active = hidden > 0
        dropped = active & (left == 0)
        spread = 5 * np.sqrt(0.21 / active.sum())
        assert dropped.sum() / active.sum() == pytest.approx(0.3, abs=spread)
        np.testing.assert_allclose(left[~dropped], hidden[~dropped] / 0.7, rtol=1e-5)


@pytest.mark.slow
def test_what_is_computed_again_is_the_same():
    kept, again = (
        networks.descended(
            create("preresnet20_cifar", rematerialize=rematerialize),
            NETWORK,
            train=True,
            batch_stats=NETWORK.averages,
        )
        for rematerialize in (False, True)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, kept, again)


def test_kernels_begin_with_variance_2_by_fan_out():
    block = PreActivationBlock(64, 2, "projection", shares=False, dropout_rate=0.0)
    x = jnp.zeros((1, 4, 4, 32))
    params = jax.jit(block.init, static_argnums=2)(jax.random.key(0), x, False)["params"]
    for name, fan_out in (("conv1", 9 * 64), ("conv2", 9 * 64), ("shortcut", 64)):
        kernel = params[name]["kernel"]
        spread = 5 * np.sqrt(2 / kernel.size)
        assert kernel.var() * fan_out / 2 == pytest.approx(1, abs=spread)


@pytest.mark.parametrize("name", ["preresnet20_cifar", "wrn16_8", "uva_preresnet_cifar"])
def test_a_network_computes_in_the_precision_that_is_asked_for(name):
    model = models.create(name, blocks=(1, 1), width=1, dropout_rate=0.1, dtype="bfloat16")
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    rngs = {"dropout": jax.random.key(0)}
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"], rngs=rngs)
    program = jax.jit(apply).lower(variables, images).as_text()
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*(\w+)>", program)
    assert set(convolutions) == {"bf16"}
    logits, moved = jax.eval_shape(apply, variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, moved))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortcut": "affine"}, "'affine': it is one of zeros, projection, own_projection"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0: it must be at least 0 and below 1"),
        ({"dtype": "float16"}, "in float32 or bfloat16, not 'float16'"),
    ],
)
def test_what_a_network_cannot_be_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(
            models.create("preresnet20_cifar", **options).init,
            jax.random.key(0),
            jnp.zeros((2, 8, 8, 3)),
        )
