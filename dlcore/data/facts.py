"""Facts of a dataset: what fills an open option of a model or a task, under the option's name."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from dlcore.data import features as kinds
from dlcore.data.features import Feature
from dlcore.data.sources import Split


class Facts(Mapping[str, Any]):
    """Facts by name, some of which are only measured when they are asked for, once.

    Args:
      known: by name.
      measured: functions without arguments, by name.
    """

    def __init__(self, known: Mapping[str, Any], measured: Mapping[str, Callable[[], Any]]):
        self._known, self._measured = dict(known), dict(measured)

    def __getitem__(self, name: str) -> Any:
        if name not in self._known and name in self._measured:
            self._known[name] = self._measured[name]()
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._measured

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, **self._measured})

    def __len__(self) -> int:
        return len({**self._known, **self._measured})


def of_examples(
    features: Mapping[str, Feature], shapes: Mapping[str, kinds.Shape], train: Split
) -> Facts:
    """The facts of a dataset of examples.

    Args:
      features: by key.
      shapes: of the inputs as a model sees them, by key.
      train: what is measured.
    """
    known: dict[str, Any] = {}
    measured: dict[str, Callable[[], Any]] = {}
    targets = {key: feature for key, feature in features.items() if isinstance(feature, _TARGETS)}
    labels = {key: len(of.names) for key, of in targets.items() if isinstance(of, kinds.ClassLabel)}
    if len(labels) == 1 or len(targets) == 1:
        key = next(iter(labels if len(labels) == 1 else targets))
        if names := targets[key].names:
            known["num_classes"] = len(names)
    tokens = {
        key: len(feature.vocabulary)
        for key, feature in features.items()
        if isinstance(feature, kinds.Tokens)
    }
    # Of two languages neither's vocabulary is the dataset's.
    if len(set(tokens.values())) == 1:
        known["vocabulary_size"] = next(iter(tokens.values()))
    if len(counted := labels or tokens) == 1:
        ((key, count),) = counted.items()
        measured["frequencies"] = functools.partial(_frequencies, train, key, count)
    for feature in features.values():
        match feature:
            case kinds.Tags():
                known["num_tags"] = len(feature.names)
            case kinds.Boxes():
                known["max_boxes"] = feature.most
    inputs = [key for key, feature in features.items() if isinstance(feature, kinds.INPUTS)]
    if "image" in inputs or len(inputs) == 1:
        key = "image" if "image" in inputs else inputs[0]
        known |= _of_input(features[key], shapes[key])
    return Facts(known, measured)


_TARGETS = (kinds.ClassLabel, kinds.Tags, kinds.Numbers, kinds.Segmentation, kinds.Boxes)


def _of_input(feature: Feature, shape: kinds.Shape) -> dict[str, Any]:
    if None in shape:
        return {}
    known: dict[str, Any] = {"image_shape": shape}
    match feature:
        case kinds.Image():
            known["image_channels"] = shape[2]
            if shape[0] == shape[1]:
                known["image_size"] = shape[0]
        case kinds.Series() | kinds.Audio():
            known["input_length"] = shape[0]
    if isinstance(feature, kinds.Audio) and feature.rate:
        known["audio_rate"] = feature.rate
    return known


def _frequencies(train: Split, key: str, count: int) -> np.ndarray:
    """How often each class or token occurs, int64 `[count]`; padding does not count."""
    total = np.zeros(count, np.int64)
    for chunk in train.only(key).chunks():
        found = chunk[key]
        if (length := chunk.get(f"{key}_length")) is not None:
            found = found[np.arange(found.shape[1]) < length[:, None]]
        total += np.bincount(found.ravel(), minlength=count)
    return total
