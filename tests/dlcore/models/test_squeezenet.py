"""SqueezeNet against PyTorch, against torchvision's counts, and with its authors' weights."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax.traverse_util import flatten_dict

from dlcore import models, weights
from dlcore.analysis import counts
from dlcore.errors import UsageError
from dlcore.nn import backbone
from dlcore.nn.regularization import Dropout
from tests import networks
from tests.fixtures import cases, network_cases


def abstract(name="squeezenet1_1", size=224, **options):
    """A model, images, and its parameters' shapes."""
    model = models.create(name, **options)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return model, images, jax.eval_shape(model.init, jax.random.key(0), images)


@pytest.mark.parametrize(("train", "dropout_rate"), [(False, 0.5), (True, 0.0)])
def test_logits_and_gradients_are_pytorch_s(train, dropout_rate):
    network, stored = network_cases.squeezenet(), cases.load("squeezenet")
    model = models.create("squeezenet1_1", num_classes=10, dropout_rate=dropout_rate)
    logits, gradients, _ = networks.descended(model, network, train)
    np.testing.assert_allclose(logits, stored["logits"], rtol=1e-4, atol=1e-6)
    assert not cases.differing(stored, "gradient", network, gradients, 1e-4)


# What the file of weights calls the layers, as a recipe's `start_mapping`.
NAMES = (
    r"conv1/(.*)<-conv1.\1 logits/(.*)<-conv10.\1 "
    r"(fire\d)/squeeze/(.*)<-\1.squeeze1x1.\2 (fire\d)/(expand\dx\d)/(.*)<-\1.\2.\3"
)


@pytest.mark.parametrize(("photo", "names"), [("chelsea", "cat"), ("coffee", "espresso")])
def test_trained_on_imagenet_it_names_what_a_photograph_shows(photo, names, data_dir):
    folder = data_dir.parent / "imagenet_weights"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: no trained weights on this machine")
    source = weights.read(folder / "squeezenet_v1.1_fp16.safetensors")
    # The first line is that of a network with a class for the background.
    labels = (folder / "imagenet_labels_1001.txt").read_text().splitlines()[1:]
    with PIL.Image.open(data_dir.parent / "photos_cc0" / f"{photo}.png") as image:
        pixels = np.asarray(image.convert("RGB").resize((227, 227)), np.float32)
    # Blue, green and red, less their means over ImageNet.
    images = jnp.asarray(pixels[None, ..., ::-1] - np.float32([104, 117, 123]))
    model, _, shapes = abstract(size=227)
    logits = jax.jit(model.apply)(weights.start(shapes, source, NAMES), images)[0]
    assert names in labels[int(logits.argmax())]


@pytest.mark.parametrize(("name", "billions"), [("squeezenet1_0", 0.819), ("squeezenet1_1", 0.349)])
def test_an_image_takes_as_many_operations_as_torchvision_says(name, billions):
    model, images, _ = abstract(name)
    assert round(counts.of_model(model, images).multiply_adds / 1e9, 3) == billions


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("squeezenet1_0", [(109, 109, 96), (54, 54, 256), (27, 27, 512), (13, 13, 512)]),
        ("squeezenet1_1", [(111, 111, 64), (55, 55, 128), (27, 27, 256), (13, 13, 512)]),
    ],
)
def test_stages_are_the_maps_before_each_pooling(name, expected):
    model, images, variables = abstract(name)
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    assert stages.pop("pooled").shape[1:] == (512,)
    assert [stages[f"stage{number}"].shape[1:] for number in range(1, 5)] == expected
    assert len(stages) == 4


def test_training_drops_half_of_what_the_classifier_reads():
    network, model = network_cases.squeezenet(), models.create("squeezenet1_1", num_classes=10)
    variables = networks.variables(network)
    found = networks.handed_on(model, variables, network.images, nn.Conv | Dropout)
    both = [found["fire9/expand1x1"], found["fire9/expand3x3"]]
    maps, left = np.maximum(np.concatenate(both, -1), 0), found["Dropout_0"]
    assert 0.4 < (left[maps > 0] == 0).mean() < 0.6
    np.testing.assert_allclose(left, np.where(left == 0, 0, 2 * maps), rtol=1e-6)
    last = network.params["logits"]
    scores = np.maximum(left @ last["kernel"][0, 0] + last["bias"], 0)
    np.testing.assert_allclose(found[""], scores.mean((1, 2)), rtol=1e-4, atol=1e-6)


def test_weights_begin_with_he_s_variance_but_for_the_last():
    model = models.create("squeezenet1_1")
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 17, 17, 3)))["params"]
    for path, leaf in flatten_dict(params, sep="/").items():
        if path.endswith("bias"):
            assert not leaf.any()
        elif path == "logits/kernel":
            assert leaf.std() == pytest.approx(0.01, rel=0.01)
        else:
            bound = np.sqrt(6 / np.prod(leaf.shape[:-1]))
            assert 0.98 * bound < abs(leaf).max() <= bound, path


def test_the_last_biases_begin_where_they_are_asked_to_and_no_class_is_silent():
    model = models.create("squeezenet1_1", num_classes=10, logits_bias=1.0)
    images = jax.random.normal(jax.random.key(1), (8, 17, 17, 3))
    logits, variables = jax.jit(model.init_with_output)(jax.random.key(0), images)
    biases = {
        path: leaf for path, leaf in flatten_dict(variables["params"]).items() if "bias" in path
    }
    assert {path[0] for path, leaf in biases.items() if leaf.any()} == {"logits"}
    np.testing.assert_array_equal(biases["logits", "bias"], np.ones(10))
    assert (logits > 0).all()


def test_a_network_computes_in_the_precision_that_is_asked_for():
    model, images, variables = abstract(size=33, dtype="bfloat16")
    with jax.numpy_dtype_promotion("strict"):
        program = jax.jit(model.apply).lower(variables, images)
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*(\w+)>", program.as_text())
    assert convolutions == ["bf16"] * 26
    assert program.out_info.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("squeezenet1_0", 20, {}, "squeezenet takes images of 21x21 or more, not 20x20"),
        ("squeezenet1_1", 16, {}, "squeezenet takes images of 17x17 or more, not 16x16"),
        ("squeezenet1_1", 17, {"dtype": "float16"}, "in float32 or bfloat16, not 'float16'"),
        ("squeezenet1_1", 17, {"dropout_rate": 1.0}, "it must be at least 0 and below 1"),
    ],
)
def test_what_a_network_cannot_take_is_refused(name, size, options, message):
    with pytest.raises(UsageError, match=message):
        abstract(name, size, **options)
