"""Whether options fit what a dataset holds."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dlcore import memory
from dlcore.data import augmentation
from dlcore.data import features as kinds
from dlcore.data.features import Feature
from dlcore.data.needs import described
from dlcore.data.options import ExampleOptions
from dlcore.data.sources import Split
from dlcore.errors import UsageError

_SYMBOLS = (kinds.Text, kinds.Tokens)
_RESIZED = (kinds.Image, kinds.Images, kinds.Segmentation, kinds.Volume)


def check_options(name: str, features: Mapping[str, Feature], options: ExampleOptions) -> None:
    """Refuses options for what a dataset lacks, and squares and moves larger than its images.

    Args:
      name: of the dataset.
      features: what it has, or what a task has asked of it.
      options: of the dataset.

    Raises:
      UsageError: naming the option.
    """
    of_images = dict.fromkeys(("color", "pad", "crop_size"), (kinds.Image,))
    needed = {"resize": _RESIZED, **of_images}
    for option, wanted in needed.items():
        if getattr(options, option) and not _have(features, *wanted):
            raise UsageError(
                f"{option} is {getattr(options, option)}, for images: dataset {name!r} has"
                f" {described(features)}; set it to 0"
            )
    _check_lengths(name, features, options)
    # What cannot follow an augmentation may be nothing that a task needs.
    changed = {key: value for key, value in features.items() if isinstance(value, kinds.INPUTS)}
    augmentation.check(augmentation.parse(options.augment), changed)
    for feature in features.values():
        if isinstance(feature, kinds.Image) and None not in feature.shape:
            _check_crop(name, feature.shape, options)
        if options.color and isinstance(feature, kinds.Image) and feature.shape[2] not in (1, 3):
            raise UsageError(
                f"color is True: the images of dataset {name!r} have {feature.shape[2]} channels:"
                " it makes three of one"
            )
    if options.test_crops > 1 and len(_have(features, kinds.Image)) != 1:
        raise UsageError(
            f"test_crops is {options.test_crops}: it needs one image, and dataset {name!r} has"
            f" {described(features)}"
        )
    if options.curriculum_epochs:
        inputs, labels = _curriculum_candidates(features)
        if not inputs or not labels:
            raise _no_curriculum(name, options.curriculum_epochs)


def _check_lengths(name: str, features: Mapping[str, Feature], options: ExampleOptions) -> None:
    for option, unset in {"vocabulary_size": 0, "min_count": 1}.items():
        if getattr(options, option) != unset and not _have(features, *_SYMBOLS):
            raise UsageError(
                f"{option} is {getattr(options, option)}, for texts: dataset {name!r} has"
                f" {described(features)}; set it to {unset}"
            )
    differ = any("_length" in feature.parts for feature in features.values())
    if options.length and not differ and not _have(features, kinds.Text):
        raise UsageError(
            f"length is {options.length}, for examples of different lengths: dataset {name!r} has"
            f" {described(features)}; set it to 0"
        )


def check_squares(name: str, features: Mapping[str, Feature], options: ExampleOptions) -> None:
    """Refuses to cut squares out of images whose segmentations or boxes would not follow.

    Args:
      name: of the dataset.
      features: what a task has asked of it.
      options: of the dataset.

    Raises:
      UsageError: naming the option.
    """
    whole = _have(features, kinds.Segmentation, kinds.Boxes, kinds.Images, kinds.Volume)
    if options.cut_square and whole:
        raise UsageError(
            f"cut_square is True: {', '.join(whole)} of dataset {name!r} cannot follow; set it to"
            " False"
        )


def check_memory(name: str, features: Mapping[str, Feature], count: int) -> None:
    """Refuses examples that the host's memory could not hold.

    Args:
      name: of the dataset.
      features: what an example holds, as it is read; one whose shape is not settled is left out.
      count: how many examples are held at once.

    Raises:
      UsageError: naming the largest feature, and what to lower.
    """
    sizes = {key: count * _least_bytes(feature) for key, feature in features.items()}
    needed, there = sum(sizes.values()), memory.of_host()
    if needed > there:
        largest = max(sizes, key=lambda key: sizes[key])
        raise UsageError(
            f"dataset {name!r}: {count} of its examples, which are held at once, take"
            f" {memory.shown(needed)} of memory, and there are {memory.shown(there)}: of"
            f" {largest!r} each has the shape {_shape(features[largest])}: lower batch_size or what"
            " makes that shape (resize, length, max_boxes)"
        )


def _least_bytes(feature: Any) -> int:
    """What an example's feature takes in memory at least."""
    shape: Any = _shape(feature)
    if None in shape or feature.on_host:
        return 0
    return memory.of_shape(shape, 1 if isinstance(feature, _RESIZED) else 2)


def _shape(feature: Any) -> kinds.Shape:
    return (feature.most, 6) if isinstance(feature, kinds.Boxes) else getattr(feature, "shape", ())


def check_contrast(name: str, split: Split, key: str) -> None:
    """Refuses training images all of whose pixels are the same.

    Args:
      name: of the dataset.
      split: the training examples; no more of them are read than it takes to see a difference.
      key: of the image.

    Raises:
      UsageError: there is nothing to be learned from them.
    """
    value = None
    for examples in split.only(key).chunks():
        images = examples[key]
        value = images.flat[0] if value is None else value
        if np.any(images != value):
            return
    raise UsageError(
        f"every pixel of the {len(split)} training images of dataset {name!r} is {value}: there is"
        " nothing to be learned from them; drawings on a transparent ground are laid on white, on"
        " which they must show"
    )


def check_distinct(name: str, split: Split, features: Mapping[str, Feature]) -> None:
    """Refuses examples that look the same and are to be told apart.

    Args:
      name: of the dataset.
      split: the examples, each of which is read once.
      features: what they hold.

    Raises:
      UsageError: naming two of them.
    """
    inputs = _have(features, *kinds.INPUTS, kinds.Tokens)
    looked_at = {key + part for key in inputs for part in features[key].parts}
    first_of: dict[bytes, tuple[int, bytes]] = {}
    for place, example in enumerate(_one_by_one(split)):
        if not looked_at & example.keys():
            return
        look, told = hashlib.sha256(), hashlib.sha256()
        for key in sorted(example):
            (look if key in looked_at else told).update(np.asarray(example[key]).tobytes())
        earlier, its = first_of.setdefault(look.digest(), (place, told.digest()))
        if its != told.digest():
            raise UsageError(
                f"examples {split.indices[earlier]} and {split.indices[place]} of dataset {name!r}"
                f" have the same {' and '.join(inputs)}, and different answers: no model can learn"
                " both by heart; remove one, or choose others by another seed"
            )


def _one_by_one(split: Split) -> Iterator[dict[str, np.ndarray]]:
    for examples in split.chunks():
        for place in range(len(next(iter(examples.values())))):
            yield {key: array[place] for key, array in examples.items()}


def _have(features: Mapping[str, Feature], *wanted: type[Feature]) -> list[str]:
    return [key for key, feature in features.items() if isinstance(feature, wanted)]


def _check_crop(name: str, shape: kinds.Shape, options: ExampleOptions) -> None:
    height, width, _ = shape
    smaller = min(height or 0, width or 0)
    if options.crop_size and options.crop_size > smaller + 2 * options.pad:
        raise UsageError(
            f"crop_size is {options.crop_size}: the images of dataset {name!r} have"
            f" {height} x {width} pixels and a pad of {options.pad}"
        )
    for choice, strength in augmentation.parse(options.augment):
        if augmentation.AUGMENTATIONS[choice].in_pixels and strength >= smaller + 2 * options.pad:
            raise UsageError(
                f"augment has {choice}:{strength:g}, by which all of an image may be lost: those of"
                f" dataset {name!r} have {height} x {width} pixels and a pad of {options.pad}"
            )


def class_key(name: str, features: Mapping[str, Feature], option: str) -> str:
    """The key of the class by which examples are chosen: the only one, or "label".

    Args:
      name: of the dataset.
      features: what it has.
      option: that chooses, as in "examples_per_class is 3".

    Raises:
      UsageError: there is none, or several and none of that name.
    """
    labels = _have(features, kinds.ClassLabel)
    if "label" not in labels and len(labels) != 1:
        raise UsageError(
            f"{option}: it needs one class, or one named label (see features): dataset {name!r} has"
            f" {described(features)}"
        )
    return "label" if "label" in labels else labels[0]


def curriculum_keys(name: str, features: Mapping[str, Feature], epochs: int) -> tuple[str, str]:
    """The keys of the input that a curriculum compares, and of its class.

    Raises:
      UsageError: there is not one of each.
    """
    inputs, labels = _curriculum_candidates(features)
    if len(inputs) != 1 or len(labels) != 1:
        raise _no_curriculum(name, epochs)
    return inputs[0], labels[0]


def _curriculum_candidates(features: Mapping[str, Feature]) -> tuple[list[str], list[str]]:
    labels = [
        key
        for key, feature in features.items()
        if isinstance(feature, kinds.ClassLabel) and len(feature.names) > 1
    ]
    return _have(features, *kinds.INPUTS), labels


def _no_curriculum(name: str, epochs: int) -> UsageError:
    return UsageError(
        f"curriculum_epochs is {epochs}: it needs one input and classes, at least two, to tell"
        f" which examples of dataset {name!r} are difficult"
    )
