"""AlexNet against PyTorch, and against counts by hand from the paper's figure."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.analysis import counts
from dlcore.errors import UsageError
from dlcore.nn import backbone
from dlcore.nn.regularization import Dropout
from tests import networks
from tests.fixtures import cases, network_cases

# Of the fixture's network.
NARROW = {"features": (8, 12, 8, 6, 4), "hidden": 20, "num_classes": 5}


def abstract(name="alexnet", size=227, **options):
    """A model, images, and its parameters' shapes."""
    model = models.create(name, **options)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return model, images, jax.eval_shape(model.init, jax.random.key(0), images)


@pytest.mark.parametrize(("train", "dropout_rate"), [(False, 0.5), (True, 0.0)])
def test_logits_and_gradients_are_pytorch_s(train, dropout_rate):
    network, stored = network_cases.alexnet(), cases.load("alexnet")
    model = models.create("alexnet", **NARROW, dropout_rate=dropout_rate)
    logits, gradients, _ = networks.descended(model, network, train)
    np.testing.assert_allclose(logits, stored["logits"], rtol=1e-4, atol=1e-4)
    assert not cases.differing(stored, "gradient", network, gradients, 1e-4)


# Figure 2: positions, channels, and what each number of a channel is summed over.
LAYERS = {
    "conv1": (55 * 55, 96, 11 * 11 * 3),
    "conv2": (27 * 27, 256, 5 * 5 * 48),
    "conv3": (13 * 13, 384, 3 * 3 * 256),
    "conv4": (13 * 13, 384, 3 * 3 * 192),
    "conv5": (13 * 13, 256, 3 * 3 * 192),
    "hidden0": (1, 4096, 6 * 6 * 256),
    "hidden1": (1, 4096, 4096),
    "logits": (1, 1000, 4096),
}


def test_the_published_network_is_counted_layer_by_layer():
    model, images, variables = abstract()
    for layer, named in variables["params"].items():
        _, channels, summed = LAYERS[layer]
        assert sum(leaf.size for leaf in jax.tree.leaves(named)) == channels * (summed + 1)
    multiply_adds = sum(map(np.prod, LAYERS.values()))
    assert round(multiply_adds / 1e6) == 724
    assert counts.of_model(model, images) == (60_965_224, multiply_adds)


def test_the_one_tower_has_torchvision_s_multiply_adds():
    model, images, _ = abstract("alexnet_one_tower", 224)
    assert round(counts.of_model(model, images).multiply_adds / 1e9, 3) == 0.714


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [("alexnet", 227, (96, 256, 256)), ("alexnet_one_tower", 224, (64, 192, 256))],
)
def test_stages_are_the_maps_before_each_pooling(name, size, channels):
    model, images, variables = abstract(name, size)
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    assert {stage: x.shape[1:] for stage, x in stages.items()} == {
        "stage1": (55, 55, channels[0]),
        "stage2": (27, 27, channels[1]),
        "stage3": (13, 13, channels[2]),
        "pooled": (4096,),
    }


def test_the_towers_meet_in_the_third_convolution():
    network, model = network_cases.alexnet(), models.create("alexnet", **NARROW)
    variables = networks.variables(network)
    other = jax.tree.map(jnp.array, variables)
    # Local response normalization, whose windows reach over the border, gives the nearest channels
    # of the first tower a little of it.
    other["params"]["conv1"]["bias"] = other["params"]["conv1"]["bias"].at[6:].add(3.0)
    before, after = (
        networks.handed_on(model, own, network.images, nn.Conv, train=False)
        for own in (variables, other)
    )

    def changed(layer):
        return (jnp.abs(after[layer] - before[layer]).max((0, 1, 2)) > 0.1).tolist()

    assert changed("conv1") == [False] * 6 + [True] * 2
    assert changed("conv2") == [False] * 6 + [True] * 6
    assert changed("conv3") == [True] * 8


def test_training_drops_half_of_the_two_hidden_layers():
    network, model = network_cases.alexnet(), models.create("alexnet", **NARROW)
    variables = networks.variables(network)
    found = networks.handed_on(model, variables, network.images, nn.Dense | Dropout)
    for layer, dropped, reader in (
        ("hidden0", "Dropout_0", "hidden1"),
        ("hidden1", "Dropout_1", "logits"),
    ):
        units, left = np.maximum(found[layer], 0), found[dropped]
        assert 0.25 < (left[units > 0] == 0).mean() < 0.75
        np.testing.assert_allclose(left, np.where(left == 0, 0, 2 * units), rtol=1e-6)
        read = left @ network.params[reader]["kernel"] + network.params[reader]["bias"]
        np.testing.assert_allclose(found[reader], read, rtol=1e-4, atol=1e-4)


def test_weights_begin_as_in_the_paper():
    model = models.create("alexnet", **NARROW | {"hidden": 300})
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 67, 67, 3)))["params"]
    ones = {layer for layer, named in params.items() if (named["bias"] == 1).all()}
    zeros = {layer for layer, named in params.items() if (named["bias"] == 0).all()}
    assert ones == {"conv2", "conv4", "conv5", "hidden0", "hidden1"}
    assert zeros == {"conv1", "conv3", "logits"}
    for layer, named in params.items():
        kernel = np.asarray(named["kernel"])
        deviation = 5 * 0.01 / np.sqrt(kernel.size)
        assert abs(kernel.mean()) < deviation, layer
        assert abs(kernel.std() - 0.01) < deviation, layer


def test_a_network_computes_in_the_precision_that_is_asked_for():
    model, images, variables = abstract(size=67, dtype="bfloat16", **NARROW)
    with jax.numpy_dtype_promotion("strict"):
        program = jax.jit(model.apply).lower(variables, images)
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*(\w+)>", program.as_text())
    assert convolutions == ["bf16"] * 5
    assert program.out_info.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("alexnet", 66, {}, "alexnet takes images of 67x67 or more, not 66x66"),
        ("alexnet_one_tower", 62, {}, "alexnet takes images of 63x63 or more, not 62x62"),
        ("alexnet", 67, {"features": (8, 8)}, r"features for 5 convolutions, not for \(8, 8\)"),
        ("alexnet", 67, {"dtype": "float16"}, "in float32 or bfloat16, not 'float16'"),
        ("alexnet", 67, {"dropout_rate": 1.0}, "it must be at least 0 and below 1"),
    ],
)
def test_what_a_network_cannot_take_is_refused(name, size, options, message):
    with pytest.raises(UsageError, match=message):
        abstract(name, size, **options)
