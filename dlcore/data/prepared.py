"""Datasets that TFDS has prepared, read without TensorFlow."""

import contextlib
import functools
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dlcore.data import features as kinds
from dlcore.data import fingerprints, prepared_description
from dlcore.data.features import Feature
from dlcore.data.options import ExampleOptions
from dlcore.data.prepared_features import (
    Column,
    check_declared,
    columns,
    count_boxes,
    stays_encoded,
)
from dlcore.data.sources import Columns, Names
from dlcore.data.values import stored
from dlcore.errors import UsageError

# Of which the content is held at once.
_RECORDS = 64


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


def holds_running_text(directory: pathlib.Path) -> bool:
    """Whether a prepared dataset is one text: examples of nothing but a feature `text`."""
    try:
        described = prepared_description.read(directory)
        return prepared_description.names(described) == {"text"}
    except (OSError, ValueError, AttributeError):
        return False  # Opening it will say what is wrong.


class Prepared:
    """A prepared dataset, opened.

    Args:
      name: as it was asked for.
      directory: holds its `dataset_info.json`.

    Attributes:
      name: as it was asked for.
      directory: holds its `dataset_info.json`.
      splits: number of examples by split.
      file_bytes: what the records of each split take in its files.
      features: TFDS's features by name.
      rates: samples a second of each feature that is sound.
      target: the feature to be predicted, where TFDS says so.

    Raises:
      UsageError: the folder is damaged, or its description names code of others.
    """

    def __init__(self, name: str, directory: pathlib.Path):
        import tensorflow_datasets as tfds

        self.name, self.directory = name, directory
        with self.reporting_damage():
            foreign = prepared_description.foreign_classes(prepared_description.read(directory))
        if foreign:
            raise UsageError(
                f"dataset {name!r} in {directory}: features.json names {foreign[0]}, whose code"
                " TFDS would run: only classes of tensorflow_datasets are read"
            )
        with self.reporting_damage():
            self._folder = prepared_description.readable(directory)
            self._builder = tfds.builder_from_directory(str(self._folder.directory))
            info = self._builder.info
            self.splits = {split: info.splits[split].num_examples for split in info.splits}
            self.file_bytes = {split: info.splits[split].num_bytes for split in info.splits}
            self.features: dict[str, Any] = dict(info.features)
            check_declared(self.splits, self.features)
            keys = info.supervised_keys
            self.rates = self._folder.rates
            self.target: str | None = keys[1] if keys and isinstance(keys[1], str) else None

    def records(self, split: str) -> "Records":
        """The records of a split; images are the bytes of their files."""
        import tensorflow_datasets as tfds

        encoded = [name for name, feature in self.features.items() if stays_encoded(feature)]
        decoders = {name: tfds.decode.SkipDecoding() for name in encoded}
        with self.reporting_damage(split):
            return self._builder.as_data_source(split, decoders=decoders)

    def files(self, split: str) -> list[pathlib.Path]:
        """The files with the records of a split, in their order."""
        return [self.directory / name for name in self._builder.info.splits[split].filenames]

    @contextlib.contextmanager
    def reporting_damage(self, split: str = "") -> Iterator[None]:
        """Turns whatever reading raises into one line that names the dataset."""
        try:
            yield
        except ModuleNotFoundError as error:
            raise UsageError(
                f"dataset {self.name!r} has a feature that TFDS cannot read without {error.name}"
            ) from error
        except Exception as error:
            where = f"split {split!r} of dataset" if split else "dataset"
            reason = (str(error) or repr(error)).splitlines()[0]
            raise UsageError(
                f"{where} {self.name!r} in {self.directory} is damaged ({reason}): restore it, or"
                f" move it elsewhere and run python -m experiments.prepare --dataset={self.name}"
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


class Records(Protocol):
    """TFDS's random access to the records of a split."""

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]: ...


class PreparedExamples:
    """The examples of one split: a `Source` that streams.

    Args:
      prepared: the dataset.
      split: by its own name.
      options: settle shapes that differ between examples.
      known: features that are better known than TFDS describes them.

    Raises:
      UsageError: the split has no examples or is damaged.
    """

    streams = True

    def __init__(
        self,
        prepared: Prepared,
        split: str,
        options: ExampleOptions,
        known: Mapping[str, Feature],
    ):
        self._prepared, self._split = prepared, split
        self._where = f"split {split!r} of dataset {prepared.name!r}"
        self._columns = columns(prepared, options, known)
        for name in known:
            if name not in self._columns:
                raise UsageError(
                    f"dataset {prepared.name!r} has no feature {name!r}: it has"
                    f" {', '.join(self._columns)}"
                )
        if not len(self):
            raise UsageError(f"{self._where} has no examples")
        self._records = prepared.records(split)

    @property
    def features(self) -> Mapping[str, Feature]:
        """See `Source`."""
        return {name: column.feature for name, column in self._columns.items()}

    @property
    def num_bytes(self) -> int:
        """What all examples take in memory, about: of texts what they take in files."""
        arrays = len(self) * sum(column.example_bytes for column in self._columns.values())
        has_texts = any(column.feature.on_host for column in self._columns.values())
        return arrays + (self._prepared.file_bytes[self._split] if has_texts else 0)

    @functools.cached_property
    def fingerprint(self) -> str:
        """See `Source`: of the files of records."""
        files = self._prepared.files(self._split)
        return fingerprints.of_files((path.name, path) for path in files)

    def __len__(self) -> int:
        return self._prepared.splits[self._split]

    def prepare(self, names: Names) -> None:
        """See `Source`: a truncated file shows in the first or the last example."""
        self.fetch(np.array([0, len(self) - 1]), names)

    def fetch(self, indices: np.ndarray, names: Names) -> Columns:
        """See `Source`."""
        chosen = {name: self._columns[name] for name in names}
        for name, column in chosen.items():
            if column.feature.unsettled:
                raise UsageError(
                    f"dataset {self._prepared.name!r}, {name!r}: {column.feature.unsettled}"
                )
        with self._prepared.reporting_damage(self._split):
            values: dict[str, list[Any]] = {name: [] for name in chosen}
            # What is not asked for may be the largest part of a record.
            for some in itertools.batched(indices.tolist(), _RECORDS):
                for record in self._records.__getitems__(some):
                    for name, column in chosen.items():
                        values[name].append(column.value(record))
        self._check_boxes(chosen, values)
        read = {}
        for name, column in chosen.items():
            with self._prepared.reporting_damage(self._split):
                parts = _stacked(column, values[name])
            read[name] = stored(column.feature, parts, self._where, name, indices)
        return read

    def _check_boxes(self, chosen: Mapping[str, Column], values: Mapping[str, list[Any]]) -> None:
        for name, column in chosen.items():
            feature = column.feature
            if isinstance(feature, kinds.Boxes):
                most = max(map(count_boxes, values[name]), default=0)
                if most > feature.most:
                    raise UsageError(
                        f"{self._where}: an example has {most} boxes, max_boxes is {feature.most}:"
                        f" set it to {most} or more"
                    )


def _stacked(column: Column, values: list[Any]) -> dict[str, np.ndarray]:
    examples = [column.read(value) for value in values]
    expected = getattr(column.feature, "shape", None)
    for example in examples:
        if expected is not None and example[""].shape != expected:
            raise ValueError(f"an example has shape {example[''].shape}, not {expected}")
    return {part: np.stack([example[part] for example in examples]) for part in examples[0]}
