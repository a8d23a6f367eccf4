"""Plain networks against PyTorch, and beside the residual networks whose twins they are."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from dlcore import models
from dlcore.analysis import counts
from dlcore.nn import backbone
from tests.fixtures import equality


@pytest.mark.parametrize("mode", ["evaluated", "trained"])
def test_logits_and_gradients_are_pytorch_s(mode):
    equality.assert_equal(models.create("plain20_cifar", layers=(2, 3)), "plain", mode)


def abstract(name, size, **options):
    """A model, images, and its variables' shapes."""
    model = models.create(name, **options)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return model, images, jax.eval_shape(model.init, jax.random.key(0), images)


def stages_in_a_row(first, stages, layers):
    """Parameters of 3x3 convolutions, each with a scale and a shift, behind `first` channels."""
    total, inputs = 0, first
    for features, count in zip(stages, layers, strict=True):
        total += 9 * inputs * features + (count - 1) * 9 * features**2 + count * 2 * features
        inputs = features
    return total


@pytest.mark.parametrize(("name", "layers"), [("plain20_cifar", 6), ("plain56_cifar", 18)])
def test_the_small_images_networks_are_counted_stage_by_stage(name, layers):
    first, logits = 9 * 3 * 16 + 2 * 16, 64 * 10 + 10
    body = stages_in_a_row(16, (16, 32, 64), (layers,) * 3)
    assert models.entry(name).parameter_count == first + body + logits


def test_plain_34_is_counted_stage_by_stage():
    first, logits = 49 * 3 * 64 + 2 * 64, 512 * 1000 + 1000
    body = stages_in_a_row(64, (64, 128, 256, 512), (6, 8, 12, 6))
    assert models.entry("plain34").parameter_count == first + body + logits


@pytest.mark.parametrize(
    ("plain", "residual", "size"),
    [
        ("plain20_cifar", "resnet20_cifar", 32),
        ("plain34", "resnet34", 224),
    ],
)
def test_twins_have_the_same_parameters_and_multiply_adds(plain, residual, size):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    twins = models.create(plain), models.create(residual, shortcut="zeros")
    own, others = (counts.of_model(twin, image) for twin in twins)
    assert own == others
    if plain == "plain34":
        # Figure 3: 3.6 billion for both. Projections come to 19 million.
        assert round(own.multiply_adds / 1e9, 1) == 3.6


@pytest.mark.parametrize(("name", "layers"), [("plain20_cifar", 20), ("plain34", 34)])
def test_the_layers_are_as_many_as_the_name_says(name, layers):
    _, _, variables = abstract(name, 32)
    assert len([path for path in variables["params"] if re.search("conv|logits", path)]) == layers


def test_stages_halve_height_and_width_and_double_the_channels():
    for name, size, expected in (
        ("plain20_cifar", 32, {"stem": (32, 16), "stage1": (32, 16), "stage3": (8, 64)}),
        ("plain34", 64, {"stem": (32, 64), "stage1": (16, 64), "stage4": (2, 512)}),
    ):
        model, images, variables = abstract(name, size)
        _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
        for stage, (side, channels) in expected.items():
            assert stages[stage].shape == (2, side, side, channels)
        assert stages["pooled"].shape == (2, channels)


def test_it_computes_in_the_precision_that_is_asked_for():
    model, images, variables = abstract("plain20_cifar", 8, layers=(2, 2), dtype="bfloat16")
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    program = jax.jit(apply).lower(variables, images).as_text()
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*(\w+)>", program)
    assert set(convolutions) == {"bf16"}
    logits, _ = jax.eval_shape(apply, variables, images)
    assert logits.dtype == jnp.float32
