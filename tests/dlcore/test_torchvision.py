"""Weights from torchvision's networks and for them, against networks of PyTorch with its names."""

import functools
import json
import math
import os
import pathlib
import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models, torchvision, weights
from dlcore.errors import UsageError
from dlcore.models import googlenet
from tests.fixtures import cases, file_cases

STORED = cases.load("torchvision")


def shapes(kind):
    """Names and shapes in PyTorch, by our networks' names."""
    networks = json.loads(STORED[kind].tobytes())
    return {
        name: {tensor: tuple(shape) for tensor, shape in own.items()}
        for name, own in networks.items()
    }


WHOLE, NARROW = shapes("whole"), shapes("narrow")


def counter(tensor):
    return tensor.endswith("num_batches_tracked")


def abstract(model, size):
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


@functools.cache
def narrow(name):
    """A narrow network: the model, the shapes of its variables, and PyTorch's weights for it."""
    model = models.create(name, **file_cases.narrow_options(name))
    state = file_cases.torchvision_state(name, NARROW[name])
    return model, abstract(model, file_cases.NARROW[name][1]), state


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        assert found[name].tobytes() == np.asarray(array).tobytes(), name


@pytest.mark.parametrize("name", list(file_cases.NARROW))
def test_the_logits_are_pytorchs_and_the_weights_come_back_to_the_last_bit(name):
    model, variables, state = narrow(name)
    found = torchvision.from_torchvision(name, state, weights.flatten(variables))
    started = weights.start(variables, found)
    if name == "googlenet_bn":
        head = googlenet.AuxiliaryHead(file_cases.NARROW_CLASSES, 0.0, adaptive=True, epsilon=1e-3)
        own = {kind: tree["auxiliary2"] for kind, tree in started.items()}
        answers = jax.jit(head.apply, static_argnums=2)(own, file_cases.head_maps(), False)
        np.testing.assert_allclose(answers, STORED["head"], rtol=1e-4, atol=1e-4)
    logits = jax.jit(model.apply)(started, file_cases.narrow_images(name))
    np.testing.assert_allclose(logits, STORED[name], rtol=1e-4, atol=1e-4)
    back = torchvision.to_torchvision(name, weights.flatten(started))
    assert_same(back, {tensor: own for tensor, own in state.items() if not counter(tensor)})
    assert_same(torchvision.from_torchvision(name, back, found), found)


# Of the others, tracing alone takes a second or more each.
SHORT = ("alexnet_one_tower", "resnet34", "squeezenet1_0", "squeezenet1_1", "vgg16_bn", "vgg19")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SHORT else pytest.mark.slow)
        for name in file_cases.TORCHVISION
    ],
)
def test_names_and_shapes_at_full_size_are_torchvisions(name):
    model, expected = models.create(name), WHOLE[name]
    inputs = models.entry(name).example_inputs[0].shape
    own = weights.flatten(abstract(model, inputs[1:3]))
    # One number each, of whatever shape.
    flat = {path: np.broadcast_to(np.float32(0), array.shape) for path, array in own.items()}
    found = torchvision.to_torchvision(name, flat)
    assert {tensor: array.shape for tensor, array in found.items()} == {
        tensor: shape for tensor, shape in expected.items() if not counter(tensor)
    }
    trained = [shape for tensor, shape in expected.items() if re.search(r"(weight|bias)$", tensor)]
    assert sum(map(math.prod, trained)) == models.entry(name).parameter_count


def test_every_model_that_torchvision_has_is_listed():
    message = "torchvision has no network with the layers of mlp: it has "
    with pytest.raises(UsageError, match=message) as error:
        torchvision.to_torchvision("mlp", {})
    listed = str(error.value).removeprefix(message).split(", ")
    assert sorted(listed) == sorted(file_cases.TORCHVISION) == sorted(WHOLE)


def drawn(path, shape):
    draw = cases.Draw(f"ours {path}")
    if len(shape) > 1:
        return draw.normal(*shape, scale=float(2 / np.prod(shape[:-1])) ** 0.5)
    numbers = draw.normal(*shape, scale=0.2)
    return 1 + np.abs(numbers) if path.endswith(("/scale", "/var")) else numbers


@pytest.mark.slow
def test_pytorch_takes_our_weights_strictly_and_gives_our_logits(tmp_path):
    root = cases.DIRECTORY.parent.parent
    python = os.environ.get("DLCORE_PEERS_PYTHON", root / ".peers" / "bin" / "python")
    if not pathlib.Path(python).exists():
        pytest.skip(f"PyTorch's environment is not there: `make peers` makes {python}")
    states, logits = {}, {}
    for name in file_cases.NARROW:
        model, variables, _ = narrow(name)
        flat = {path: drawn(path, own.shape) for path, own in weights.flatten(variables).items()}
        apply = jax.jit(model.apply)
        logits[name] = apply(weights.unflatten(flat, variables), file_cases.narrow_images(name))
        found = torchvision.to_torchvision(name, flat)
        states |= {f"{name}/{tensor}": array for tensor, array in found.items()}
    np.savez(tmp_path / "weights.npz", **states)
    words = [python, "-m", "tests.fixtures.torchvision_networks"]
    words += [tmp_path / "weights.npz", tmp_path / "logits.npz"]
    subprocess.run(words, cwd=root, check=True, timeout=120)
    with np.load(tmp_path / "logits.npz") as found:
        for name, own in logits.items():
            np.testing.assert_allclose(own, found[name], rtol=1e-4, atol=1e-4, err_msg=name)


# What does not fit.


def test_a_head_of_other_classes_is_read_as_it_is_and_left_out_by_the_mapping():
    _, variables, state = narrow("resnet18")
    head = {"fc.weight": np.ones((9, 128), np.float32), "fc.bias": np.ones(9, np.float32)}
    found = torchvision.from_torchvision("resnet18", state | head, weights.flatten(variables))
    assert found["logits/kernel"].shape == (128, 9)
    with pytest.raises(UsageError, match="logits/kernel is 128x5 here and 128x9 there"):
        weights.start(variables, found)
    started = weights.start(variables, found, "logits/.*<- <-logits/.*")
    assert started["params"]["logits"] == variables["params"]["logits"]


def test_weights_without_a_place_keep_torchvisions_names():
    _, variables, state = narrow("googlenet_bn")
    without = ("auxiliary1", "auxiliary2")
    variables = {
        kind: {layer: own for layer, own in tree.items() if layer not in without}
        for kind, tree in variables.items()
    }
    found = torchvision.from_torchvision("googlenet_bn", state, weights.flatten(variables))
    kept = [tensor for tensor in state if tensor.startswith("aux") and not counter(tensor)]
    assert found.keys() - weights.flatten(variables).keys() == set(kept)
    with pytest.raises(UsageError, match=f"{len(kept)} left over in the source"):
        weights.start(variables, found)
    weights.start(variables, found, r"<-aux\d\..*")


def test_densenets_of_before_pytorch_forbade_dots_in_names_are_read():
    _, variables, state = narrow("densenet121")
    old = {re.sub(r"(layer\d+\.(norm|conv))", r"\1.", name): own for name, own in state.items()}
    assert "features.denseblock2.denselayer3.norm.1.running_mean" in old
    own = weights.flatten(variables)
    assert_same(
        torchvision.from_torchvision("densenet121", old, own),
        torchvision.from_torchvision("densenet121", state, own),
    )


def test_weights_of_another_network_are_refused_in_one_line():
    _, variables, _ = narrow("resnet18")
    with pytest.raises(UsageError) as error:
        torchvision.from_torchvision("resnet18", narrow("vgg11")[2], weights.flatten(variables))
    assert str(error.value).startswith(
        "start_mapping=torchvision: the weights have no name of torchvision's resnet18, such as "
    )
    assert str(error.value).endswith(
        "; they have features.0.weight, features.0.bias, features.3.weight, ..."
    )


def test_what_a_shallower_network_lacks_is_reported_as_ever():
    _, variables, state = narrow("resnet18")
    lacking = {tensor: own for tensor, own in state.items() if "layer2.1.bn2" not in tensor}
    found = torchvision.from_torchvision("resnet18", lacking, weights.flatten(variables))
    with pytest.raises(UsageError, match=r"4 missing in the source \(batch_stats/stage2_block1/"):
        weights.start(variables, found)


def test_a_weight_without_a_place_is_not_exported():
    _, variables, _ = narrow("resnet18")
    flat = {**weights.flatten(variables), "adapter/kernel": np.ones((2, 2))}
    with pytest.raises(UsageError, match="torchvision's resnet18 has no place for adapter/kernel"):
        torchvision.to_torchvision("resnet18", flat)
