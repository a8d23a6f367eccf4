"""Network in Network against PyTorch."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlcore import models
from dlcore.errors import UsageError
from dlcore.nn import backbone
from dlcore.nn.regularization import Dropout
from tests import networks
from tests.fixtures import cases, network_cases


def abstract(size=32, **options):
    """A model, images, and its parameters' shapes."""
    model = models.create("nin_cifar", **options)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return model, images, jax.eval_shape(model.init, jax.random.key(0), images)


@pytest.mark.parametrize(("train", "dropout_rate"), [(False, 0.5), (True, 0.0)])
def test_logits_and_gradients_are_pytorch_s(train, dropout_rate):
    network, stored = network_cases.nin(), cases.load("nin")
    model = models.create("nin_cifar", dropout_rate=dropout_rate)
    logits, gradients, _ = networks.descended(model, network, train)
    np.testing.assert_allclose(logits, stored["logits"], rtol=1e-4, atol=1e-6)
    assert not cases.differing(stored, "gradient", network, gradients, 1e-4)


def test_training_drops_half_of_what_the_first_two_pools_hand_on():
    network, model = network_cases.nin(), models.create("nin_cifar")
    variables = networks.variables(network)
    found = networks.handed_on(model, variables, network.images, nn.Conv | Dropout)
    for layer, dropped, size in (
        ("mlpconv1", "Dropout_0", (5, 4)),
        ("mlpconv2", "Dropout_1", (2, 2)),
    ):
        maps = np.maximum(found[f"{layer}/mlp2"], 0)
        left = found[dropped]
        assert left.shape[1:3] == size
        pooled = np.zeros(left.shape, np.float32)
        for i, j in np.ndindex(size):
            pooled[:, i, j] = maps[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
        assert 0.4 < (left[pooled > 0] == 0).mean() < 0.6
        np.testing.assert_allclose(left, np.where(left == 0, 0, 2 * pooled), rtol=1e-6)
    assert set(found) - {"Dropout_0", "Dropout_1", ""} == set(network.params)


def test_a_class_s_logit_is_the_mean_of_its_rectified_map():
    network, model = network_cases.nin(), models.create("nin_cifar")
    found = networks.handed_on(model, networks.variables(network), network.images, nn.Conv, False)
    np.testing.assert_allclose(
        found[""], np.maximum(found["logits"], 0).mean((1, 2)), rtol=1e-5, atol=1e-7
    )


def test_stages_are_the_mlpconv_layers():
    model, images, variables = abstract()
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    assert {stage: x.shape[1:] for stage, x in stages.items()} == {
        "stage1": (32, 32, 96),
        "stage2": (16, 16, 192),
        "stage3": (8, 8, 192),
        "pooled": (192,),
    }


def test_weights_begin_as_in_the_authors_program():
    params = jax.jit(models.create("nin_cifar").init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    for path, leaf in flatten_dict(params["params"], sep="/").items():
        if path.endswith("bias"):
            assert not leaf.any()
        else:
            assert abs(leaf.std() - 0.05) < 5 * 0.05 / np.sqrt(2 * leaf.size), path
            assert abs(leaf.mean()) < 5 * 0.05 / np.sqrt(leaf.size), path


def test_the_last_biases_begin_where_they_are_asked_to_and_no_class_is_silent():
    model = models.create("nin_cifar", logits_bias=1.0)
    images = jax.random.normal(jax.random.key(1), (8, 4, 4, 3))
    logits, variables = jax.jit(model.init_with_output)(jax.random.key(0), images)
    biases = {
        path: leaf for path, leaf in flatten_dict(variables["params"]).items() if "bias" in path
    }
    assert {path[0] for path, leaf in biases.items() if leaf.any()} == {"logits"}
    np.testing.assert_array_equal(biases["logits", "bias"], np.ones(10))
    assert (logits > 0).all()


def test_a_network_computes_in_the_precision_that_is_asked_for():
    model, images, variables = abstract(8, dtype="bfloat16")
    with jax.numpy_dtype_promotion("strict"):
        program = jax.jit(model.apply).lower(variables, images)
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*(\w+)>", program.as_text())
    assert convolutions == ["bf16"] * 9
    assert program.out_info.dtype == jnp.float32


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (3, {}, "nin takes images of 4x4 or more, not 3x3"),
        (8, {"dtype": "float16"}, "in float32 or bfloat16, not 'float16'"),
        (8, {"dropout_rate": 1.0}, "it must be at least 0 and below 1"),
    ],
)
def test_what_a_network_cannot_take_is_refused(size, options, message):
    with pytest.raises(UsageError, match=message):
        abstract(size, **options)
