"""Whether options fit what a dataset holds."""

from collections.abc import Mapping

from dlcore.data import augmentation
from dlcore.data import features as kinds
from dlcore.data.features import Feature
from dlcore.data.needs import described
from dlcore.data.options import ExampleOptions
from dlcore.errors import UsageError

_RESIZED = (kinds.Image, kinds.Images, kinds.Segmentation, kinds.Volume)


def check_options(name: str, features: Mapping[str, Feature], options: ExampleOptions) -> None:
    """Refuses options for what a dataset lacks, and a square that is larger than its images.

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
    if options.length and not any("_length" in feature.parts for feature in features.values()):
        raise UsageError(
            f"length is {options.length}, for examples of different lengths: dataset {name!r} has"
            f" {described(features)}; set it to 0"
        )
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


def class_key(name: str, features: Mapping[str, Feature], options: ExampleOptions) -> str:
    """The key of the class that `examples_per_class` counts by: the only one, or "label".

    Raises:
      UsageError: there is none, or several and none of that name.
    """
    labels = _have(features, kinds.ClassLabel)
    if "label" not in labels and len(labels) != 1:
        raise UsageError(
            f"examples_per_class is {options.examples_per_class}: it needs one class, or one named"
            f" label (see features): dataset {name!r} has {described(features)}"
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
