"""Files of one's own, one folder a class, or without classes: which split and class each is of."""

import abc
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from dlcore.data import fingerprints, listing
from dlcore.data.features import ClassLabel, Feature
from dlcore.data.options import Options, chosen_splits, is_split
from dlcore.data.sources import Columns, Names
from dlcore.errors import UsageError

# Those files in a folder that are examples, in the order of their names.
Files = Callable[[pathlib.Path], list[pathlib.Path]]


class Divided(NamedTuple):
    """The files of a folder.

    Attributes:
      class_names: of the classes; empty where there are none.
      files: of each split.
    """

    class_names: tuple[str, ...]
    files: dict[str, list[pathlib.Path]]

    def labels(self, split: str) -> np.ndarray:
        """The class of each file of a split, int32; 0 where there are none."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return np.array([numbers.get(path.parent.name, 0) for path in self.files[split]], np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassFiles(abc.ABC):
    """The files of one split: a `Source` that streams.

    A subclass says what a file holds, and reads some.

    Attributes:
      paths: of the files.
      labels: their classes, int32.
      class_names: of the classes; empty where there are none.
    """

    paths: list[pathlib.Path]
    labels: np.ndarray
    class_names: tuple[str, ...]

    streams: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def content(self) -> tuple[str, Feature]:
        """The name and the feature of what a file holds."""

    @abc.abstractmethod
    def read(self, paths: list[pathlib.Path]) -> np.ndarray:
        """What those files hold, `[n, ...]`.

        Raises:
          UsageError: one cannot be read.
        """

    @property
    def features(self) -> dict[str, Feature]:
        """See `Source`."""
        name, feature = self.content
        label = {"label": ClassLabel(self.class_names)} if self.class_names else {}
        return {name: feature, **label}

    @functools.cached_property
    def fingerprint(self) -> str:
        """See `Source`: of the files, under the names of their classes."""
        place = 2 if self.class_names else 1
        return fingerprints.of_files(("/".join(path.parts[-place:]), path) for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def prepare(self, names: Names) -> None:
        """See `Source`: looks at the first and the last file."""
        self.fetch(np.array([0, len(self) - 1]), names)

    def fetch(self, indices: np.ndarray, names: Names) -> Columns:
        """See `Source`."""
        found: Columns = {}
        name, _ = self.content
        if name in names:
            found[name] = {"": self.read([self.paths[index] for index in indices])}
        if "label" in names:
            found["label"] = {"": self.labels[indices]}
        return found


def holds(root: pathlib.Path, files: Files) -> bool:
    """Whether a folder holds examples, or they lie in its folders, or in the folders of those."""
    inner = [root, *listing.folders(root).values()]
    deepest = (path for folder in inner[1:] for path in listing.folders(folder).values())
    return any(map(files, itertools.chain(inner, deepest)))


def divide(root: pathlib.Path, options: Options, files: Files, noun: str, pattern: str) -> Divided:
    """The files of each split of a folder. One line of the log names what of it is not read.

    Args:
      root: holds one folder a class, or files, or such folders in `train` and optionally
        `validation` (or `val`, `valid`) and `test`; `train` is a class where it lies among other
        classes and beside no other split. What is hidden does not count.
      options: which folder is used as which split.
      files: finds the examples in a folder.
      noun: what they are, for a message.
      pattern: of their names, for a message.

    Raises:
      UsageError: a split has none, or they are of a class that the training files do not have.
    """
    roots = _roots(root, options, files)
    classes = listing.folders(roots["train"])
    class_names = tuple(name for name, folder in classes.items() if files(folder))
    found = {split: _of(folder, class_names, files, noun) for split, folder in roots.items()}
    for split, paths in found.items():
        if not paths:
            folder = roots[split]
            raise UsageError(
                f"no {noun} in {folder}: they are looked for in {folder}/CLASS/{pattern} and in"
                f" {folder} itself"
            )
    every = [path for paths in found.values() for path in paths]
    opened = (root, *roots.values(), *(path.parent for path in every))
    listing.report_rest(root, dict.fromkeys(opened), every)
    return Divided(class_names, found)


def _roots(root: pathlib.Path, options: Options, files: Files) -> dict[str, pathlib.Path]:
    """The folder of each split, `root` itself where it is not divided."""
    folders = listing.folders(root)
    if not options.splits and ("train" not in folders or _train_is_class(folders, files)):
        return {"train": root}
    chosen = chosen_splits(options, folders, str(root))
    return {split: folders[own] for split, own in chosen.items()}


def _train_is_class(folders: Mapping[str, pathlib.Path], files: Files) -> bool:
    """Whether `train` is a class: it holds files, as others do, none of which is named a split."""
    train, others = folders["train"], [name for name in folders if name != "train"]
    return (
        bool(files(train))
        and not any(map(files, listing.folders(train).values()))
        and any(files(folders[name]) for name in others)
        and not any(map(is_split, others))
    )


def _of(
    folder: pathlib.Path, class_names: tuple[str, ...], files: Files, noun: str
) -> list[pathlib.Path]:
    if not class_names:
        return files(folder)
    found = {name: files(path) for name, path in listing.folders(folder).items()}
    for name, paths in found.items():
        if paths and name not in class_names:
            raise UsageError(
                f"{folder / name} is no class of the training {noun}: those are"
                f" {', '.join(class_names)}"
            )
    return [path for paths in found.values() for path in paths]
