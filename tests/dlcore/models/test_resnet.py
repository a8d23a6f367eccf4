"""Residual networks against Flax's and PyTorch's layers, and by every implementation of kernels.

Where a rectifier's input is all but zero, rounding decides about a gradient, and one such decision
is seen in every later step. Which batches lead past one differs from machine to machine. Trainings
are compared over batches that do not on this one: there the order of examples decides nothing.
"""

import collections
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcore import models
from dlcore.errors import UsageError
from dlcore.models import resnet
from dlcore.nn import backbone
from dlcore.nn.conv_norm import ConvNorm
from dlcore.nn.regularization import StochasticDepth
from kernels import aot, dispatch, testing
from tests import networks
from tests.fixtures import equality, normalized_cases

STEPS, BATCH, SIZE = 20, 4, 8
RATE, MOMENTUM = 0.002, 0.9


class Plain(nn.Module):
    """The CIFAR network of Flax's own layers."""

    blocks: tuple[int, ...]

    @nn.compact
    def __call__(self, x, train=False):
        def layer(x, width, strides=1):
            x = nn.Conv(width, (3, 3), strides, padding=1, use_bias=False)(x)
            return nn.BatchNorm(not train, momentum=MOMENTUM, use_fast_variance=False)(x)

        x = nn.relu(layer(x, 16))
        for stage, count in enumerate(self.blocks):
            width = 16 * 2**stage
            for _ in range(count):
                strides = width // x.shape[-1]
                shortcut = x[:, ::strides, ::strides]
                new = jnp.zeros((*shortcut.shape[:3], width - x.shape[-1]), x.dtype)
                x = layer(nn.relu(layer(x, width, strides)), width)
                x = nn.relu(x + jnp.concatenate([shortcut, new], axis=-1))
        return nn.Dense(10)(x.mean((1, 2)))


def in_order(variables):
    """Variables of ours in the form of `Plain`'s, whose layers are numbered through."""
    renamed = {"params": {"Dense_0": variables["params"]["logits"]}, "batch_stats": {}}
    for collection, layers in variables.items():
        blocks = sorted(name for name in layers if "_block" in name)
        convolutions = [layers[block][name] for block in blocks for name in ("conv1", "conv2")]
        for number, layer in enumerate((layers["conv1"], *convolutions)):
            norm = dict(layer)
            if collection == "params":
                renamed["params"][f"Conv_{number}"] = {"kernel": norm.pop("kernel")}
            renamed[collection][f"BatchNorm_{number}"] = norm
    return renamed


def unbiased(statistics):
    """Flax's running averages, which it moves toward biased variances, as ours would be."""
    corrected = {}
    # What is left of the ones that they begin with.
    kept = MOMENTUM**STEPS
    for name, own in statistics.items():
        # Height and width shrink as the channels multiply.
        count = BATCH * (SIZE * 16 // own["var"].size) ** 2
        var = kept + (own["var"] - kept) * (count / (count - 1))
        corrected[name] = {"mean": own["mean"], "var": var}
    return corrected


@functools.partial(jax.jit, static_argnums=0)
def train(model, variables, images, labels):
    """The variables after a step of momentum on each batch."""

    def step(state, batch):
        params, statistics, velocity = state
        images, labels = batch

        def loss(params):
            variables = {"params": params, "batch_stats": statistics}
            logits, moved = model.apply(variables, images, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), moved["batch_stats"]

        gradients, statistics = jax.grad(loss, has_aux=True)(params)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradients)
        params = jax.tree.map(lambda p, v: p - RATE * v, params, velocity)
        return (params, statistics, velocity), None

    params = variables["params"]
    state = params, variables["batch_stats"], jax.tree.map(jnp.zeros_like, params)
    (params, statistics, _), _ = jax.lax.scan(step, state, (images, labels))
    return {"params": params, "batch_stats": statistics}


def drawn(model, seed):
    """Variables, and the images and labels of 20 steps."""
    random = np.random.default_rng(seed)
    images = jnp.asarray(random.normal(size=(STEPS, BATCH, SIZE, SIZE, 3)), jnp.float32)
    labels = random.integers(0, 10, (STEPS, BATCH)).astype(np.int32)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return random.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), images[0])
    return jax.tree.map_with_path(draw, shapes), images, labels


def difference(variables, expected, started):
    """The largest of any tensor, in parts of the way from its start to where it should be."""

    def of_one(found, expected, started):
        found, expected, started = map(np.float64, (found, expected, started))
        return np.linalg.norm(found - expected) / np.linalg.norm(expected - started)

    return max(jax.tree.leaves(jax.tree.map(of_one, variables, expected, started)))


def trained(blocks, steps=STEPS):
    """A training by XLA: what it began with, where it led, and how far rounding leads from there.

    Returns:
      The arguments of `train`, the variables after it, and ten times the difference that other
      orders of the examples make.
    """
    model = network(blocks)
    # Of 20 steps through 19 layers, about every second draw will do.
    for seed in range(24):
        start, images, labels = drawn(model, seed)
        images, labels = images[:steps], labels[:steps]
        end = train(model, start, images, labels)
        explained = max(
            difference(train(model, start, images[:, order], labels[:, order]), end, start)
            for order in np.array([[3, 2, 1, 0], [1, 3, 0, 2]])
        )
        if explained < 1e-4:
            return (start, images, labels), end, 10 * explained
    raise AssertionError("rounding decides about a rectifier, whatever the batches")


def network(blocks, **options):
    return models.create("resnet20_cifar", blocks=blocks, **options)


SMALL, RESNET20 = (1, 1, 1), (3, 3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [SMALL, RESNET20])
def test_twenty_steps_lead_where_flax_s_layers_lead(blocks):
    (start, images, labels), end, explained = trained(blocks)
    plain = Plain(blocks)
    expected = train(plain, in_order(start), images, labels)
    expected = {**expected, "batch_stats": unbiased(expected["batch_stats"])}
    assert difference(in_order(end), expected, in_order(start)) < explained
    outputs = network(blocks).apply(end, images[0])
    assert testing.error(outputs, plain.apply(expected, images[0])) < explained


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["mosaic_tpu", "mosaic_gpu"])
def test_three_steps_lead_to_the_same_by_every_implementation(implementation):
    given, end, explained = trained(RESNET20, steps=3)
    with testing.interpreted(implementation), dispatch.using(implementation):
        found = train(network(RESNET20), *given)
        assert difference(found, end, given[0]) < explained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "implementation"), [("tpu:v5e", "mosaic_tpu"), ("gpu:h200", "mosaic_gpu")]
)
def test_the_compiled_training_calls_the_kernels_for_every_layer(target, implementation):
    machine = aot.target(target)
    if reason := aot.missing(machine.chip.platform):
        pytest.skip(reason)
    model = models.create("resnet20_cifar", dtype="bfloat16")
    sharding = jax.sharding.SingleDeviceSharding(machine.devices[0])
    shapes = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        drawn(model, seed=0),
    )
    with dispatch.target(machine.chip.device_kind), dispatch.using(implementation):
        lowered = train.lower(model, *shapes)
        kernels = aot.compile_for(machine, lowered).kernels
    # Two of the 19 convolutions have a stride. Nine read what is still to be normalized: back
    # through them it is normalized once more.
    expected = {"conv_stats_3x3": 17, "normalize": 10 + 9}
    expected |= {"normalize_sums": 19, "normalize_cotangent": 19}
    assert collections.Counter(kernels) == expected


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("resnet18", 1.814),
        ("resnet34", 3.664),
        ("resnet50", 4.089),
        ("resnet101", 7.801),
        ("resnet152", 11.514),
        ("wrn50_2", 11.398),
    ],
)
def test_an_image_takes_as_many_operations_as_torchvision_says(name, operations, monkeypatch):
    counted = []

    def convolve(x, kernel, geometry):
        counted.append(geometry.rows * kernel.size)
        return jnp.zeros((x.shape[0], *geometry.space, geometry.outputs), x.dtype)

    monkeypatch.setattr("kernels.conv_bn_relu.xla.convolve", convolve)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(models.create(name).init, jax.random.key(0), image)
    total = sum(counted) + variables["params"]["logits"]["kernel"].size
    assert round(total / 1e9, 3) == operations


def test_new_channels_of_the_cifar_network_s_shortcut_are_zeros():
    block = resnet.BasicBlock(features=6, strides=2, shortcut="zeros")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 3)), jnp.float32)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, False))
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    # The last layer adds nothing to the shortcut.
    params = variables["params"]
    params["conv2"] = jax.tree.map(jnp.zeros_like, params["conv2"])
    y = block.apply(variables, x, False)
    np.testing.assert_array_equal(y[..., :3], jax.nn.relu(x[:, ::2, ::2]))
    np.testing.assert_array_equal(y[..., 3:], 0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {}),
        ("resnet20_cifar", {}),
        ("uva_resnet_cifar", {}),
        ("resnet20_cifar", {"downsampling": "max_pool", "stochastic_depth_rate": 0.5}),
    ],
)
def test_a_network_computes_in_the_precision_that_is_asked_for(name, options):
    model = models.create(name, blocks=(1, 1), dtype="bfloat16", **options)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    rngs = {"dropout": jax.random.key(0)}
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"], rngs=rngs)
    program = jax.jit(apply).lower(variables, images).as_text()
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*(\w+)>", program)
    assert set(convolutions) == {"bf16"}
    logits, moved = jax.eval_shape(apply, variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, moved))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20_cifar", {"dtype": "float16"}, "in float32 or bfloat16, not 'float16'"),
        ("resnet20_cifar", {"shortcut": "B"}, "'B': it is one of zeros, projection, affine"),
        ("resnet50", {"shortcut": "none"}, "'none': it is one of zeros"),
        ("resnet20_cifar", {"downsampling": "pool"}, "is strides or max_pool, not 'pool'"),
        ("resnet20_cifar", {"stochastic_depth_rate": 1.0}, "it must be at least 0 and below 1"),
        ("resnet18", {"width": 2}, "width=2 widens bottlenecks, and bottleneck is false"),
    ],
)
def test_what_a_network_cannot_be_is_refused(name, options, message):
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(models.create(name, **options).init, jax.random.key(0), images)


@pytest.mark.parametrize("mode", ["evaluated", "trained"])
@pytest.mark.parametrize(
    ("case", "options"),
    [
        pytest.param("affine", {"shortcut": "affine"}, marks=pytest.mark.slow),
        pytest.param("projection", {"shortcut": "projection"}, marks=pytest.mark.slow),
        ("max_pool", {"downsampling": "max_pool"}),
    ],
)
def test_with_another_change_of_shape_logits_and_gradients_are_pytorch_s(case, options, mode):
    equality.assert_equal(network(normalized_cases.RESIDUAL_BLOCKS, **options), case, mode)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", {"stem": (32, 64), "stage1": (16, 256), "stage4": (2, 2048)}),
        ("resnet20_cifar", {"stem": (64, 16), "stage1": (64, 16), "stage3": (16, 64)}),
    ],
)
def test_stages_halve_height_and_width_and_double_the_channels(name, expected):
    model = models.create(name)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    for stage, (side, channels) in expected.items():
        assert stages[stage].shape == (2, side, side, channels)
    assert stages["pooled"].shape == (2, channels)


def counted(**options):
    """Parameters of a network of 20 layers."""
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    init = models.create("resnet20_cifar", **options).init
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_the_ways_to_change_the_shape_differ_by_the_layers_that_they_bring():
    projections = 16 * 32 + 32 * 64
    # For each channel a bias, or a scale and a shift.
    assert counted(shortcut="affine") == counted() + projections + (32 + 64)
    normalized = projections + 2 * (32 + 64)
    assert counted(shortcut="projection") == counted() + normalized
    second = 9 * 32 * 32 + 9 * 64 * 64 + 2 * (32 + 64)
    assert counted(downsampling="max_pool") == counted() + normalized - second


@pytest.mark.parametrize("size", [9, 8])
def test_a_pooling_block_gives_the_shape_that_strides_give(size):
    x = jax.ShapeDtypeStruct((2, size, size - 1, 3), jnp.float32)
    blocks = resnet.PoolingBlock(6, 2), resnet.BasicBlock(6, 2, "zeros")
    pooled, strided = (
        jax.eval_shape(
            lambda x, block=block: block.init_with_output(jax.random.key(0), x, False), x
        )
        for block in blocks
    )
    assert pooled[0].shape == strided[0].shape == (2, (size + 1) // 2, size // 2, 6)


# Stochastic depth

DEEP = normalized_cases.residual()


def test_a_block_is_dropped_in_proportion_to_its_number_and_its_input_stays():
    model = network(normalized_cases.RESIDUAL_BLOCKS, stochastic_depth_rate=0.6)
    images = jnp.tile(DEEP.images[:, :4, :4], (300, 1, 1, 1))
    variables = networks.variables(DEEP, batch_stats=DEEP.averages)
    kinds = (StochasticDepth, resnet.BasicBlock, ConvNorm)
    found = networks.handed_on(model, variables, images, kinds)
    assert models.create("stochastic_depth110_cifar").stochastic_depth_rate == 0.5
    blocks = ("stage1_block0", "stage1_block1", "stage2_block0")
    for number, block in enumerate(blocks, start=1):
        dropped = ~np.any(found[f"{block}/depth"], axis=(1, 2, 3))
        assert dropped.mean() == pytest.approx(0.2 * number, abs=5 * np.sqrt(0.25 / 1200))
    block, branch = found["stage1_block1"], found["stage1_block1/depth"]
    before, dropped = found["stage1_block0"], ~np.any(branch, axis=(1, 2, 3))
    np.testing.assert_array_equal(block[dropped], before[dropped])
    # Not scaled where it stays, nor activated before the sum.
    unscaled = found["stage1_block1/conv2"][~dropped]
    assert unscaled.min() < 0
    np.testing.assert_array_equal(branch[~dropped], unscaled)
    np.testing.assert_array_equal(block[~dropped], jax.nn.relu(unscaled + before[~dropped]))


def test_evaluation_multiplies_a_branch_by_its_probability_of_staying():
    rate, images = 0.6, jnp.asarray(DEEP.images)
    variables = networks.variables(DEEP, batch_stats=DEEP.averages)
    scaled = jax.tree.map(lambda leaf: leaf, variables)
    for number, block in enumerate(("stage1_block0", "stage1_block1", "stage2_block0"), start=1):
        layer = scaled["params"][block]["conv2"]
        for name in ("scale", "bias"):
            layer[name] = layer[name] * (1 - rate * number / 3)
    found = network(normalized_cases.RESIDUAL_BLOCKS, stochastic_depth_rate=rate).apply(
        variables, images
    )
    expected = network(normalized_cases.RESIDUAL_BLOCKS).apply(scaled, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_is_computed_again_is_what_was_dropped_before():
    kept, again = (
        networks.descended(
            network(
                normalized_cases.RESIDUAL_BLOCKS,
                stochastic_depth_rate=0.6,
                rematerialize=rematerialize,
            ),
            DEEP,
            train=True,
            batch_stats=DEEP.averages,
        )
        for rematerialize in (False, True)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, kept, again)


@pytest.mark.parametrize("name", ["resnet50", "resnet20_cifar"])
def test_every_layer_is_by_the_implementation_that_is_named(name):
    model = models.create(name, blocks=(1, 2))
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    with dispatch.target("tpu"), dispatch.using("mosaic_tpu") as within:
        jax.eval_shape(train, variables, images)
    layers = len(jax.tree.leaves(variables["batch_stats"])) // 2
    convolutions = [choice for choice in within.choices if choice.operation.startswith("conv")]
    assert len(convolutions) == layers
    for choice in within.choices:
        no_kernel = choice.reason.startswith("mosaic_tpu has no kernel")
        assert choice.implementation == ("xla" if no_kernel else "mosaic_tpu")
