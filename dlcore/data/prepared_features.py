"""What TFDS says that an example holds, in the words of `dlcore.data.features`, and its reading."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from dlcore import memory
from dlcore.data import decoding
from dlcore.data import features as kinds
from dlcore.data.features import Feature
from dlcore.data.options import ExampleOptions
from dlcore.data.values import Parts

# Each has a name in memory; ImageNet has 21,841.
_MOST_CLASSES = 10**6
# Channels by which an array of numbers is taken for an image.
_CHANNELS = (1, 3, 4)


@dataclasses.dataclass(frozen=True)
class Column:
    """A feature of a prepared dataset.

    Attributes:
      feature: what it is.
      path: where it lies in a nested record.
      example_bytes: what one example takes in memory, about; 0 where the shape is not settled.
      resize: whether pictures are brought to the feature's size; otherwise they must have it.
      cut_square: whether that is done with an image's central square.
    """

    feature: Feature
    path: tuple[str, ...]
    example_bytes: int
    resize: bool
    cut_square: bool = False

    def value(self, record: Any) -> Any:
        """What a record holds of it, as TFDS gives it."""
        for key in self.path:
            record = record[key]
        return record

    def read(self, value: Any) -> Parts:
        """The arrays of one example.

        Raises:
          Exception: of any kind; the record is damaged.
        """
        return _read(self.feature, value, self.resize, self.cut_square)


class Described(Protocol):
    """What TFDS says of a dataset.

    Attributes:
      features: by name.
      rates: samples a second of each that is sound.
      target: the one to be predicted, where TFDS says so.
    """

    features: dict[str, Any]
    rates: dict[str, int]
    target: str | None


def columns(
    described: Described, options: ExampleOptions, known: Mapping[str, Feature]
) -> dict[str, Column]:
    """The features of a prepared dataset by name, those in a dictionary as `outer/inner`.

    Args:
      described: TFDS's own description.
      options: settle what differs between examples: `resize`, `length`, `max_boxes`.
      known: features that are better known than TFDS describes them, by name.
    """
    found = {}
    for path, feature in sorted(_flat(described.features), key=lambda item: item[0]):
        name = "/".join(path)
        # "mask" is the batch's own.
        key = "example_mask" if name == "mask" else name
        own = known.get(key)
        if name in described.rates:
            own = own or kinds.Audio(feature.shape, described.rates[name])
        settled = _settled(own or _feature(name, feature, name == described.target), options)
        size, resize = _example_bytes(settled, feature), bool(options.resize)
        found[key] = Column(settled, path, size, resize, options.cut_square)
    return found


def check_declared(splits: Mapping[str, int], features: Mapping[str, Any]) -> None:
    """Raises ValueError where a description declares what there cannot be.

    Args:
      splits: number of examples by split.
      features: TFDS's features by name.
    """
    for split, count in splits.items():
        # A split is a list of the places of its examples.
        if not 0 <= memory.of_shape((count,), 8) <= memory.of_host():
            raise ValueError(f"it declares {count} examples in the split {split}")
    for path, feature in _flat(features):
        classes = getattr(feature, "num_classes", None) or 0
        if not 0 <= classes <= _MOST_CLASSES:
            raise ValueError(f"it declares {classes} classes of {'/'.join(path)}")


def stays_encoded(feature: Any) -> bool:
    """Whether an image of TFDS is read as the bytes of its file, and decoded here."""
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.Image) and feature.np_dtype == np.uint8


def _flat(described: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    import tensorflow_datasets as tfds

    found: list[tuple[tuple[str, ...], Any]] = []
    for name, feature in described.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            found += [((name, *path), inner) for path, inner in _flat(feature)]
        else:
            found.append(((name,), feature))
    return found


def _feature(name: str, feature: Any, is_target: bool) -> Feature:
    """What a feature of TFDS is.

    Labeled images, and images of one channel under a name that begins with `segmentation`, have a
    class for every pixel. Sequences: of boxes, alone or with a label, boxes; of images, a video.
    Of plain numbers, the shape decides: see `_tensor`.
    """
    from tensorflow_datasets import features as tfds

    if isinstance(feature, tfds.ClassLabel) and feature.num_classes:
        return kinds.ClassLabel(tuple(feature.names))
    if isinstance(feature, tfds.LabeledImage):
        names = tuple(feature.names) if feature.num_classes else ()
        return kinds.Segmentation(names, feature.shape[:2])
    if isinstance(feature, tfds.Image):
        if name.startswith("segmentation") and feature.shape[-1] == 1:
            return kinds.Segmentation((), feature.shape[:2])
        return kinds.Image((*feature.shape[:2], feature.shape[-1] or 3))
    if isinstance(feature, tfds.Text):
        return kinds.Text()
    if isinstance(feature, tfds.Sequence):
        return _sequence(feature)
    if isinstance(feature, tfds.BBoxFeature):
        return kinds.Boxes(("object",), 1) if _is_box(feature) else kinds.Raw()
    if isinstance(feature, tfds.Tensor):
        return _tensor(name, feature, is_target)
    return kinds.Raw()


def _sequence(feature: Any) -> Feature:
    from tensorflow_datasets import features as tfds

    inner = feature.feature
    if isinstance(inner, tfds.Image):
        return kinds.Volume((feature.shape[0], *inner.shape), scale=255)
    if _is_box(inner):
        return kinds.Boxes(("object",), 0)
    within = dict(inner) if isinstance(inner, tfds.FeaturesDict) else {}
    if _is_box(within.get("bbox")):
        label: Any = within.get("label")
        named = isinstance(label, tfds.ClassLabel) and label.num_classes
        return kinds.Boxes(tuple(label.names) if named else ("object",), 0)
    return kinds.Raw()


def _is_box(feature: Any) -> bool:
    from tensorflow_datasets import features as tfds

    # Where the form of a box is not given, it is TFDS's default.
    form = getattr(feature, "bbox_format", None)
    return isinstance(feature, tfds.BBoxFeature) and getattr(form, "name", "REL_YXYX") == "REL_YXYX"


def _tensor(name: str, feature: Any, is_target: bool) -> Feature:
    """What an array of numbers is.

    By its axes: none, a number to predict; one, a row, or numbers to predict where TFDS says so, or
    a series where it may have any length; two, a series. Three are an image where the last has 1, 3
    or 4 channels, a series where the first may have any length, and else a volume without channels;
    four, several images of such channels, or a volume. Truth values are tags. What is called
    `audio` is.
    """
    shape, axes = tuple(feature.shape), len(feature.shape)
    if feature.np_dtype.kind not in "buif":
        return kinds.Text() if axes == 0 else kinds.Raw()
    if name == "audio" and axes in (1, 2):
        return kinds.Audio(shape)
    if axes == 0 or (axes == 1 and shape[0] is not None):
        names = tuple(map(str, range(shape[0]))) if axes else (name,)
        if feature.np_dtype == np.bool_:
            return kinds.Tags(names)
        return kinds.Numbers(names) if is_target or not axes else kinds.Row(names)
    if axes > 4:
        return kinds.Raw()
    if axes == 3 and (shape[0] is not None or None in shape[1:]):
        return kinds.Image(shape) if shape[2] in _CHANNELS else kinds.Volume((*shape, 1))
    if axes == 4:
        several = shape[0] is not None and shape[3] in _CHANNELS
        return kinds.Images(shape) if several else kinds.Volume(shape)
    return kinds.Series(shape)


def _settled(feature: Feature, options: ExampleOptions) -> Feature:
    """The feature with the shape that the options give to all examples."""
    size = (options.resize, options.resize) if options.resize else None
    match feature:
        case kinds.Image() | kinds.Segmentation() if size:
            return dataclasses.replace(feature, shape=(*size, *feature.shape[2:]))
        case kinds.Images() if size:
            return dataclasses.replace(feature, shape=(feature.shape[0], *size, feature.shape[3]))
        case kinds.Boxes(most=0):
            return dataclasses.replace(feature, most=options.max_boxes)
        case kinds.Tokens(length=None) if options.length:
            return dataclasses.replace(feature, length=options.length, padded=True)
        case kinds.Series() | kinds.Audio() | kinds.Volume():
            shape = feature.shape
            if isinstance(feature, kinds.Volume) and size and feature.scale == 255:
                shape = (shape[0], *size, *shape[3:])
            if shape[0] is None and options.length:
                shape = (options.length, *shape[1:])
                return dataclasses.replace(feature, shape=shape, padded=True)
            return dataclasses.replace(feature, shape=shape)
    return feature


def _example_bytes(feature: Feature, described: Any) -> int:
    if isinstance(feature, kinds.Boxes):
        return 24 * feature.most
    shape = getattr(feature, "shape", (1,))
    if None in shape or feature.on_host:
        return 0
    as_stored = isinstance(feature, kinds.Image | kinds.Images | kinds.Segmentation | kinds.Volume)
    is_bytes = as_stored and getattr(described, "np_dtype", None) == np.uint8
    return memory.of_shape(shape, 1 if is_bytes else 4)


def _read(feature: Feature, value: Any, resize: bool, cut_square: bool) -> Parts:
    shape: Any = getattr(feature, "shape", ())
    match feature:
        case kinds.Image():
            return {"": _image(value, shape, resize, cut_square)}
        case kinds.Images() | kinds.Volume():
            return _fitted(_frames(value, shape, resize), feature)
        case kinds.Segmentation():
            return {"": _classes(value, shape, resize)}
        case kinds.Boxes():
            return _boxes(feature, value)
        case kinds.Series() | kinds.Audio() | kinds.Tokens():
            sound = isinstance(feature, kinds.Audio)
            return _fitted(_sound(value) if sound else np.asarray(value), feature)
        case kinds.Row() | kinds.Numbers() | kinds.Tags():
            return {"": np.asarray(value).reshape(shape)}
        case kinds.Text() | kinds.Raw():
            return {"": _object(value.decode() if isinstance(value, bytes) else value)}
    return {"": np.asarray(value)}


def _object(value: Any) -> np.ndarray:
    held = np.empty((), object)
    held[()] = value
    return held


def _image(value: Any, shape: Any, resize: bool, cut_square: bool) -> np.ndarray:
    size = shape[:2] if resize else None
    if isinstance(value, bytes):
        return decoding.decode(value, shape[2], size, cut_square)
    pixels = np.asarray(value)
    pixels = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return decoding.resized(pixels, size, cut_square) if size else pixels


def _frames(value: Any, shape: Any, resize: bool) -> np.ndarray:
    frames = np.asarray(value).reshape(len(value), *np.shape(value[0])[:2], shape[-1])
    if not resize or shape[1:3] == frames.shape[1:3]:
        return frames
    return np.stack([decoding.resized(frame, shape[1:3]) for frame in frames])


def _classes(value: Any, shape: Any, resize: bool) -> np.ndarray:
    classes = decoding.decode_classes(value) if isinstance(value, bytes) else np.asarray(value)
    classes = classes.reshape(classes.shape[:2])
    return decoding.resized_classes(classes, shape) if resize else classes


def _sound(value: Any) -> np.ndarray:
    sound = np.asarray(value)
    if sound.dtype.kind not in "iu" or sound.dtype == np.int16:
        return sound
    if sound.size and np.abs(sound).max() >= 2**15:
        raise ValueError("its sound has more than 16 bits")
    return sound.astype(np.int16)


def _fitted(steps: np.ndarray, feature: Any) -> Parts:
    """Steps cut or padded with 0 to the feature's length, and how many are real."""
    if "_length" not in feature.parts:
        return {"": steps}
    length = feature.shape[0]
    kept = steps[:length]
    padding = [(0, length - len(kept)), *((0, 0),) * (kept.ndim - 1)]
    return {"": np.pad(kept, padding), "_length": np.array(len(kept))}


def _boxes(feature: kinds.Boxes, value: Any) -> Parts:
    corners = value["bbox"] if isinstance(value, dict) else value
    corners = np.asarray(corners, np.float32).reshape(-1, 4)
    labels = value["label"] if isinstance(value, dict) and "label" in value else 0
    padding = (0, feature.most - len(corners))
    return {
        "": np.pad(corners, [padding, (0, 0)]),
        "_label": np.pad(np.broadcast_to(np.asarray(labels, np.int64), len(corners)), padding),
        "_mask": np.pad(np.ones(len(corners), np.float32), padding),
    }


def count_boxes(value: Any) -> int:
    """How many boxes a value of TFDS holds."""
    return np.asarray(value["bbox"] if isinstance(value, dict) else value).size // 4
