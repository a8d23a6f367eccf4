"""Files of one's own, one folder a class, or without classes: which split and class each is of."""

import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dlcore.data import fingerprints, listing
from dlcore.data.options import Options, chosen_splits, is_split
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


def fingerprint(paths: Sequence[pathlib.Path], class_names: Sequence[str]) -> str:
    """A hash of files, under the names of their classes where they have some."""
    place = 2 if class_names else 1
    return fingerprints.of_files(("/".join(path.parts[-place:]), path) for path in paths)


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
