"""The names and layouts of torchvision's networks: weights from there, and weights for there.

`from_torchvision` and `to_torchvision` change names and the order of axes, and no number. They go
by a network's name in the registry and by the paths of its parameters, and so for any number of
blocks, channels and classes.

    conv1/kernel               conv1.weight: [height, width, inputs, outputs] here is
                               [outputs, inputs, height, width] there
    conv1/scale, conv1/bias    bn1.weight, bn1.bias
    batch_stats/conv1/mean     bn1.running_mean; likewise var, running_var
    logits/kernel              fc.weight: transposed; where the layer reads flattened maps, their
                               channels come last here and first there

The published weights are for images of numbers in 0..1, normalized by the channels' means (0.485,
0.456, 0.406) and deviations (0.229, 0.224, 0.225). Those of googlenet_bn are for means and
deviations of 0.5, to which the network there goes over by itself (`transform_input`).
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlcore.errors import UsageError, some

# The word of `start_mapping` by which weights have torchvision's names.
WORD = "torchvision"

_STATISTICS = "batch_stats/"

# PyTorch's names of a module's weights, by ours of a layer's; and which are a normalization's.
_WEIGHTS = {
    "kernel": "weight",
    "conv_bias": "bias",
    "bias": "bias",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_NORMS = ("scale", "mean", "var")

# A count of batches, for averages that weight all of them alike; torchvision's do not.
_COUNTER = ".num_batches_tracked"

# The published DenseNets are older than PyTorch's ban on such names: denselayer1.norm.1.weight.
_OLD = re.compile(r"(.*\.denselayer\d+\.(?:norm|conv))\.([12]\..*)")


def is_from_torchvision(name: str, state: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether weights have names of the network of torchvision; arguments as below."""
    names = {place.name for place in _places(name, own).values()} if name in _FAMILIES else set()
    return not names.isdisjoint(state)


def from_torchvision(
    name: str, state: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The weights of a network of torchvision by our names.

    Those that the model has no place for keep their names. Shapes are the network's, also where the
    model has another number of classes.

    Args:
      name: of the model, in the registry.
      state: the network's state dict.
      own: the model's own weights by path, or their shapes.

    Raises:
      UsageError: torchvision has no such network, or the state dict has none of its names.
    """
    current = {_OLD.sub(r"\1\2", there): array for there, array in state.items()}
    places = {place.name: (path, place) for path, place in _places(name, own).items()}
    if not places.keys() & current.keys():
        raise UsageError(
            f"start_mapping={WORD}: the weights have no name of torchvision's {name}, such as "
            f"{some(list(places))}; they have {some(list(state))}"
        )
    found: dict[str, np.ndarray] = {}
    for there, array in current.items():
        if there in places:
            path, place = places[there]
            found[path] = place.from_there(array)
        elif not there.endswith(_COUNTER):
            found[there] = array
    return found


def to_torchvision(name: str, flat: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A model's weights as a state dict of the network of torchvision.

    Args:
      name: of the model, in the registry.
      flat: its weights by path.

    Raises:
      UsageError: torchvision has no such network, or a weight has no place in it.
    """
    places = _places(name, flat)
    if strange := [path for path in flat if path not in places]:
        raise UsageError(f"torchvision's {name} has no place for {some(strange)}")
    return {place.name: place.to_there(np.asarray(flat[path])) for path, place in places.items()}


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a weight is in torchvision's network.

    Attributes:
      name: of it there.
      channels: of the maps that it is for in flattened form; 0 where they are not flattened.
    """

    name: str
    channels: int

    def from_there(self, array: np.ndarray) -> np.ndarray:
        """The weight in our layout; of another number of channels just transposed."""
        if array.ndim == 4:
            return array.transpose(2, 3, 1, 0)
        if array.ndim == 2 and self.channels and array.shape[1] % self.channels == 0:
            maps = array.reshape(array.shape[0], self.channels, -1)
            return maps.swapaxes(1, 2).reshape(array.shape).T
        return array.T

    def to_there(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `from_there`."""
        if array.ndim == 4:
            return array.transpose(3, 2, 0, 1)
        if array.ndim == 2 and self.channels:
            maps = array.T.reshape(array.shape[1], -1, self.channels)
            return maps.swapaxes(1, 2).reshape(array.shape[::-1])
        return array.T


@dataclasses.dataclass(frozen=True)
class _Layer:
    """Where a layer is in torchvision's network.

    Attributes:
      module: that has its kernel.
      norm: that normalizes; empty for none.
      maps: the layer whose maps it reads in flattened form; empty for none.
    """

    module: str
    norm: str = ""
    maps: str = ""


def _places(name: str, own: Mapping[str, Any]) -> dict[str, _Place]:
    """The place of each of a model's weights that has one, by path."""
    if name not in _FAMILIES:
        raise UsageError(
            f"torchvision has no network with the layers of {name}: it has {', '.join(_FAMILIES)}"
        )
    paths = {path: path.removeprefix(_STATISTICS).rpartition("/")[::2] for path in own}
    layers = _FAMILIES[name]({layer: f"{layer}/scale" in own for layer, _ in paths.values()})
    places = {}
    for path, (layer, kind) in paths.items():
        there = layers.get(layer)
        if there and kind in _WEIGHTS:
            # The bias of a layer that normalizes is its normalization's.
            normalizes = kind in _NORMS or (kind == "bias" and f"{layer}/scale" in own)
            module = there.norm if normalizes else there.module
            flattened = there.maps if kind == "kernel" else ""
            channels = own[f"{flattened}/kernel"].shape[-1] if flattened else 0
            places[path] = _Place(f"{module}.{_WEIGHTS[kind]}", channels)
    return places


# What follows gives a family's layers by our paths. It gets each layer's path, and whether it
# normalizes.


def _alexnet(layers: Mapping[str, bool]) -> dict[str, _Layer]:
    del layers
    convolutions = {f"conv{i}": _Layer(f"features.{n}") for i, n in enumerate((0, 3, 6, 8, 10), 1)}
    return convolutions | {
        "hidden0": _Layer("classifier.1", maps="conv5"),
        "hidden1": _Layer("classifier.4"),
        "logits": _Layer("classifier.6"),
    }


def _vgg(layers: Mapping[str, bool]) -> dict[str, _Layer]:
    """Numbered with the rectifiers, the poolings and the dropouts between them."""
    numbers = sorted(_numbers(layer) for layer in layers if layer.startswith("conv"))
    found, place, last, before = {}, 0, "", 1
    for stage, number in numbers:
        place += stage - before
        last, before = f"conv{stage}_{number}", stage
        found[last] = _Layer(f"features.{place}", f"features.{place + 1}")
        place += 3 if layers[last] else 2
    hidden = sorted((layer for layer in layers if layer.startswith("hidden")), key=_numbers)
    for number, layer in enumerate((*hidden, "logits")):
        found[layer] = _Layer(f"classifier.{3 * number}", maps="" if number else last)
    return found


def _googlenet(layers: Mapping[str, bool]) -> dict[str, _Layer]:
    """A convolution there is a module of a convolution and a normalization."""
    branches = {
        "branch1": "branch1",
        "branch2_reduce": "branch2.0",
        "branch2": "branch2.1",
        "branch3_reduce": "branch3.0",
        "branch3": "branch3.1",
        "branch4": "branch4.1",
        "conv": "conv",
    }
    found = {"logits": _Layer("fc")}
    for ours, there in (("conv1", "conv1"), ("conv2_reduce", "conv2"), ("conv2", "conv3")):
        found[ours] = _Layer(f"{there}.conv", f"{there}.bn")
    for layer in layers:
        outer, _, inner = layer.partition("/")
        module = outer.replace("auxiliary", "aux")
        if inner in branches:
            there = f"{module}.{branches[inner]}"
            found[layer] = _Layer(f"{there}.conv", f"{there}.bn")
        elif inner == "hidden":
            found[layer] = _Layer(f"{module}.fc1", maps=f"{outer}/conv")
        elif inner == "logits":
            found[layer] = _Layer(f"{module}.fc2")
    return found


def _resnet(layers: Mapping[str, bool]) -> dict[str, _Layer]:
    found = {"conv1": _Layer("conv1", "bn1"), "logits": _Layer("fc")}
    for layer in layers:
        outer, _, inner = layer.partition("/")
        if inner:
            stage, block = _numbers(outer)
            module = f"layer{stage}.{block}"
            if inner == "shortcut":
                found[layer] = _Layer(f"{module}.downsample.0", f"{module}.downsample.1")
            else:
                norm = inner.replace("conv", "bn")
                found[layer] = _Layer(f"{module}.{inner}", f"{module}.{norm}")
    return found


def _densenet(layers: Mapping[str, bool]) -> dict[str, _Layer]:
    found = {
        "conv0": _Layer("features.conv0", "features.norm0"),
        "norm": _Layer("features.norm5", "features.norm5"),
        "logits": _Layer("classifier"),
    }
    for layer in layers:
        outer, _, inner = layer.partition("/")
        if inner:
            module = outer
            if outer.startswith("stage"):
                stage, number = _numbers(outer)
                module = f"denseblock{stage}.denselayer{number + 1}"
            there = f"features.{module}.{inner}"
            found[layer] = _Layer(there, there)
    return found


def _squeezenet(layers: Mapping[str, bool], pool_after: tuple[int, ...]) -> dict[str, _Layer]:
    """Numbered with the rectifier of the first convolution and the poolings between them."""
    found = {"conv1": _Layer("features.0"), "logits": _Layer("classifier.1")}
    for layer in layers:
        fire, _, inner = layer.partition("/")
        if inner:
            (number,) = _numbers(fire)
            place = number + sum(pooled < number for pooled in pool_after)
            found[layer] = _Layer(f"features.{place}.{inner}")
    return found


def _numbers(layer: str) -> list[int]:
    """The numbers in a layer's path."""
    return [int(number) for number in re.findall(r"\d+", layer)]


_FAMILIES: Mapping[str, Callable[[Mapping[str, bool]], dict[str, _Layer]]] = {
    "alexnet_one_tower": _alexnet,
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19"), _vgg),
    **dict.fromkeys(("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"), _vgg),
    "googlenet_bn": _googlenet,
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), _resnet),
    "wrn50_2": _resnet,
    **dict.fromkeys(("densenet121", "densenet161", "densenet169", "densenet201"), _densenet),
    "squeezenet1_0": functools.partial(_squeezenet, pool_after=(1, 4, 8)),
    "squeezenet1_1": functools.partial(_squeezenet, pool_after=(1, 3, 5)),
}
