"""Datasets that TFDS has prepared, read without TensorFlow."""

import contextlib
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from dlcore.data import decoding
from dlcore.data.sources import check
from dlcore.errors import UsageError


def locate(directory: pathlib.Path) -> pathlib.Path | None:
    """The folder with `dataset_info.json` at or below a dataset's folder: its newest version.

    Raises:
      UsageError: the dataset has several configurations, and none is named.
    """
    if (directory / "dataset_info.json").is_file():
        return directory
    # An interrupted preparation leaves a folder such as 3.0.1.incompleteA1B2.
    versions = [
        info.parent
        for pattern in ("*/", "*/*/")
        for info in directory.glob(f"{pattern}dataset_info.json")
        if re.fullmatch(r"\d+(\.\d+)*", info.parent.name)
    ]
    configurations = sorted({version.parent.name for version in versions})
    if len(configurations) > 1:
        names = ", ".join(f"{directory.name}/{name}" for name in configurations)
        raise UsageError(f"dataset {directory.name!r} has several configurations: use {names}")
    return max(versions, key=_version, default=None)


def _version(directory: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(part) for part in directory.name.split("."))


class Prepared:
    """A prepared dataset, opened.

    Attributes:
      name: as it was asked for.
      directory: holds its `dataset_info.json`.
      splits: number of examples by split.
      features: TFDS's features by name.

    Raises:
      UsageError: the folder is damaged.
    """

    def __init__(self, name: str, directory: pathlib.Path):
        import tensorflow_datasets as tfds

        self.name, self.directory = name, directory
        with self.reporting_damage():
            self._builder = tfds.builder_from_directory(str(directory))
            info = self._builder.info
            self.splits = {split: info.splits[split].num_examples for split in info.splits}
            self.features: dict[str, Any] = dict(info.features)

    def records(self, split: str, encoded: tuple[str, ...] = ()) -> "Records":
        """The records of a split, the features `encoded` left as they are stored."""
        import tensorflow_datasets as tfds

        decoders = {feature: tfds.decode.SkipDecoding() for feature in encoded}
        with self.reporting_damage(split):
            return self._builder.as_data_source(split, decoders=decoders)

    @contextlib.contextmanager
    def reporting_damage(self, split: str = "") -> Iterator[None]:
        """Turns whatever reading raises into one line that names the dataset."""
        try:
            yield
        except Exception as error:
            where = f"split {split!r} of dataset" if split else "dataset"
            reason = (str(error) or repr(error)).splitlines()[0]
            raise UsageError(
                f"{where} {self.name!r} in {self.directory} is damaged ({reason}): restore it, or"
                f" delete it and run python -m experiments.prepare --dataset={self.name}"
            ) from error

    def texts(self) -> dict[str, str]:
        """The feature `text` of each split, its examples one below the other.

        Raises:
          UsageError: a split is damaged.
        """
        texts = {}
        for split, count in self.splits.items():
            with self.reporting_damage(split):
                records = self.records(split).__getitems__(range(count))
                texts[split] = "\n".join(record["text"].decode() for record in records)
        return texts

    @property
    def input_name(self) -> str:
        """The feature that a classifier sees: `image`, or what TFDS calls the supervised input."""
        supervised = self._builder.info.supervised_keys
        return "image" if "image" in self.features or not supervised else supervised[0]


class Records(Protocol):
    """TFDS's random access to the records of a split."""

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]: ...


class PreparedExamples:
    """The labelled images, or rows of numbers, of one split: a `Source` that streams.

    Raises:
      UsageError: the dataset has no input with a class, or the split is damaged.
    """

    streams = True

    def __init__(self, prepared: Prepared, split: str, resize: int):
        import tensorflow_datasets as tfds

        self._prepared, self._split = prepared, split
        self._size = (resize, resize) if resize else None
        self._input = prepared.input_name
        features = prepared.features
        label, feature = features.get("label"), features.get(self._input)
        if not isinstance(label, tfds.features.ClassLabel) or not isinstance(
            feature, (tfds.features.Image, tfds.features.Tensor)
        ):
            raise UsageError(
                f"dataset {prepared.name!r} is no classification of images or numbers: it needs an"
                f" 'image' and a 'label' with classes, and has {', '.join(sorted(features))}"
            )
        self._encoded = isinstance(feature, tfds.features.Image)
        self._num_classes = label.num_classes
        self.dtype = np.dtype(np.uint8 if feature.np_dtype == np.uint8 else np.float32)
        self.shape = self._expected_shape(feature.shape)
        if not len(self):
            raise UsageError(f"split {split!r} of dataset {prepared.name!r} has no examples")
        self._records = prepared.records(split, (self._input,) if self._encoded else ())
        # A truncated file shows at once, not in the middle of a training.
        self.fetch(np.array([0, len(self) - 1]))

    def _expected_shape(self, shape: tuple[int | None, ...]) -> tuple[int, ...]:
        if self._size and len(shape) == 3:
            shape = (*self._size, shape[-1])
        if None in shape:
            raise UsageError(
                f"the images of dataset {self._prepared.name!r} differ in size: set resize"
            )
        return tuple(int(size) for size in shape if size is not None)

    def __len__(self) -> int:
        return self._prepared.splits[self._split]

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source`."""
        with self._prepared.reporting_damage(self._split):
            records = self._records.__getitems__(indices.tolist())
            images = np.stack([self._pixels(record[self._input]) for record in records])
        labels = np.array([record["label"] for record in records], np.int32)
        where = f"split {self._split!r} of dataset {self._prepared.name!r}"
        check(where, indices, images, labels, self._num_classes)
        return {"image": images, "label": labels}

    def _pixels(self, value: Any) -> np.ndarray:
        if self._encoded:
            pixels = decoding.decode(value, self.shape[-1], self._size)
        else:
            pixels = np.asarray(value, self.dtype)
            pixels = decoding.resized(pixels, self._size) if self._size else pixels
        if pixels.shape != self.shape:
            raise ValueError(f"an example has shape {pixels.shape}, not {self.shape}")
        return pixels
