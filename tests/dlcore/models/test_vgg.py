"""VGG against PyTorch, in both modes, and against torchvision's counts."""

import functools
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlcore import models
from dlcore.analysis import counts
from dlcore.errors import UsageError
from dlcore.nn import backbone
from dlcore.nn.regularization import Dropout
from tests import networks
from tests.fixtures import cases, network_cases

CONVOLUTIONS, FEATURES = network_cases.VGG_STAGES
# Of the fixtures' networks.
NARROW = {
    "convolutions": CONVOLUTIONS,
    "features": FEATURES,
    "grid": network_cases.VGG_GRID,
    "hidden": (12, 12),
    "num_classes": 5,
}


def abstract(name, size, **options):
    """A model, images, and its variables' shapes."""
    model = models.create(name, **options)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return model, images, jax.eval_shape(model.init, jax.random.key(0), images)


@pytest.mark.parametrize(("train", "dropout_rate"), [(False, 0.5), (True, 0.0)])
def test_logits_and_gradients_are_pytorch_s(train, dropout_rate):
    network, stored = network_cases.vgg(batch_norm=False), cases.load("vgg")
    model = models.create("vgg11", **NARROW, dropout_rate=dropout_rate)
    logits, gradients, _ = networks.descended(model, network, train)
    np.testing.assert_allclose(logits, stored["logits"], rtol=1e-4, atol=1e-6)
    assert not cases.differing(stored, "gradient", network, gradients, 1e-4)


@pytest.mark.parametrize(("mode", "dropout_rate"), [("evaluated", 0.5), ("trained", 0.0)])
def test_with_normalization_they_are_in_either_mode_and_so_are_the_averages(mode, dropout_rate):
    network, averages = network_cases.vgg(batch_norm=True), network_cases.vgg_averages()
    stored = cases.load("vgg_bn")
    model = models.create("vgg11_bn", **NARROW, dropout_rate=dropout_rate)
    train = mode == "trained"
    logits, gradients, moved = networks.descended(
        model, network, train, batch_stats=averages.params
    )
    np.testing.assert_allclose(logits, stored[f"{mode}_logits"], rtol=1e-4, atol=1e-5)
    assert not cases.differing(stored, f"{mode}_gradient", network, gradients, 2e-4)
    if train:
        assert not cases.differing(stored, "moved", averages, moved["batch_stats"], 1e-5)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("vgg11", 7.609), ("vgg13", 11.308), ("vgg16", 15.47), ("vgg19", 19.632), ("vgg16_bn", 15.47)],
)
def test_an_image_takes_as_many_operations_as_torchvision_says(name, billions):
    model, images, _ = abstract(name, 224)
    assert round(counts.of_model(model, images).multiply_adds / 1e9, 3) == billions


def test_the_small_network_is_counted_layer_by_layer():
    channels = (3, 32, 32, 64, 64, 128, 128)
    weights = [9 * inputs * outputs for inputs, outputs in itertools.pairwise(channels)]
    positions = [size**2 for size in (32, 32, 16, 16, 8, 8)]
    hidden = 4 * 4 * 128 * 128
    # A bias and two numbers of the normalization for each channel.
    parameters = sum(weights) + 3 * sum(channels[1:]) + hidden + 128 + 128 * 10 + 10
    multiply_adds = int(np.dot(weights, positions)) + hidden + 128 * 10
    model, images, _ = abstract("vgg_cifar", 32)
    assert counts.of_model(model, images) == (parameters, multiply_adds)


def test_stages_are_the_maps_before_each_pooling():
    model, images, variables = abstract("vgg16", 224)
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    assert {stage: x.shape[1:] for stage, x in stages.items()} == {
        "stage1": (224, 224, 64),
        "stage2": (112, 112, 128),
        "stage3": (56, 56, 256),
        "stage4": (28, 28, 512),
        "stage5": (14, 14, 512),
        "pooled": (4096,),
    }


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_a_stage_is_rectified_and_collected_in_either_mode(name):
    network = network_cases.vgg(batch_norm=name == "vgg11_bn")
    model = models.create(name, **NARROW, dropout_rate=0.0)
    averages = {"batch_stats": network_cases.vgg_averages().params} if name == "vgg11_bn" else {}
    variables = networks.variables(network, **averages)
    for train in (False, True):
        collect = jax.jit(functools.partial(backbone.collect, model, train=train))
        _, stages = collect(variables, jnp.asarray(network.images))
        assert all((x >= 0).all() and (x > 0).any() for x in stages.values())


def test_training_drops_half_of_the_hidden_layers():
    network, model = network_cases.vgg(batch_norm=False), models.create("vgg11", **NARROW)
    variables = networks.variables(network)
    found = networks.handed_on(model, variables, network.images, nn.Dense | Dropout)
    for layer, dropped, reader in (
        ("hidden0", "Dropout_0", "hidden1"),
        ("hidden1", "Dropout_1", "logits"),
    ):
        units, left = np.maximum(found[layer], 0), found[dropped]
        assert 0.2 < (left[units > 0] == 0).mean() < 0.8
        np.testing.assert_allclose(left, np.where(left == 0, 0, 2 * units), rtol=1e-6)
        read = left @ network.params[reader]["kernel"] + network.params[reader]["bias"]
        np.testing.assert_allclose(found[reader], read, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_kernels_begin_uniform_between_fan_in_and_fan_out(name):
    model = models.create(name, features=(64, 64, 64), convolutions=(1, 1, 1), hidden=(64,))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    for path, kernel in flatten_dict(params, sep="/").items():
        if path.endswith("kernel"):
            window = np.prod(kernel.shape[:-2])
            bound = np.sqrt(6 / (window * sum(kernel.shape[-2:])))
            assert 0.98 * bound < abs(kernel).max() <= bound, path
            assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.05), path


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_a_network_computes_in_the_precision_that_is_asked_for(name):
    model, images, variables = abstract(name, 32, dtype="bfloat16", hidden=(8,))
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    with jax.numpy_dtype_promotion("strict"):
        program = jax.jit(apply).lower(variables, images, rngs={"dropout": jax.random.key(0)})
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*(\w+)>", program.as_text())
    assert convolutions == ["bf16"] * 8
    assert {leaf.dtype for leaf in jax.tree.leaves(program.out_info)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("vgg11", 31, {}, "vgg takes images of 32x32 or more, not 31x31"),
        ("vgg_cifar", 7, {}, "vgg takes images of 8x8 or more, not 7x7"),
        ("vgg11", 32, {"features": (8, 8)}, "for each stage, not 5 and 2 of them"),
        ("vgg11", 32, {"dtype": "float16"}, "in float32 or bfloat16, not 'float16'"),
        ("vgg11", 32, {"dropout_rate": 1.0}, "it must be at least 0 and below 1"),
    ],
)
def test_what_a_network_cannot_take_is_refused(name, size, options, message):
    with pytest.raises(UsageError, match=message):
        abstract(name, size, **options)
