"""Folders of one's own texts, one folder a class, each file an example."""

import pathlib
from typing import override

import numpy as np

from dlcore.data import class_folders, text
from dlcore.data.class_folders import ClassFiles
from dlcore.data.features import Feature, Text
from dlcore.data.options import Options


class FolderTexts(ClassFiles):
    """The text files of one split."""

    @property
    @override
    def content(self) -> tuple[str, Feature]:
        return "text", Text()

    @property
    def num_bytes(self) -> int:
        """What all examples take in memory, about."""
        return sum(path.stat().st_size for path in self.paths)

    @override
    def read(self, paths: list[pathlib.Path]) -> np.ndarray:
        texts = np.empty(len(paths), object)
        texts[:] = [text.read_file(path) for path in paths]
        return texts


def holds_texts(root: pathlib.Path) -> bool:
    """Whether the folders in a folder hold texts, or the folders in those."""
    return class_folders.holds(root, text.files)


def open_texts(root: pathlib.Path, options: Options) -> dict[str, FolderTexts]:
    """The splits of a folder. One line of the log names what of it is not read.

    Args:
      root: see `class_folders.divide`; of texts in UTF-8, named `*.txt`.
      options: which folder is used as which split.

    Raises:
      UsageError: there are no texts, or they cannot be read.
    """
    divided = class_folders.divide(root, options, text.files, "texts", "*.txt")
    return {
        split: FolderTexts(paths, divided.labels(split), divided.class_names)
        for split, paths in divided.files.items()
    }
