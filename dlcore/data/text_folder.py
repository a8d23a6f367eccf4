"""Folders of one's own texts, one folder a class, each file an example."""

import dataclasses
import functools
import pathlib

import numpy as np

from dlcore.data import class_folders, text
from dlcore.data.features import ClassLabel, Feature, Text
from dlcore.data.options import Options
from dlcore.data.sources import Columns, Names


@dataclasses.dataclass(frozen=True, eq=False)
class FolderTexts:
    """The text files of one split: a `Source` that streams.

    Attributes:
      paths: of the files.
      labels: their classes, int32.
      class_names: of the classes; empty where there are none.
    """

    paths: list[pathlib.Path]
    labels: np.ndarray
    class_names: tuple[str, ...]
    streams = True

    @property
    def features(self) -> dict[str, Feature]:
        """See `Source`."""
        label = {"label": ClassLabel(self.class_names)} if self.class_names else {}
        return {"text": Text(), **label}

    @property
    def num_bytes(self) -> int:
        """What all examples take in memory, about."""
        return sum(path.stat().st_size for path in self.paths)

    @functools.cached_property
    def fingerprint(self) -> str:
        """See `Source`: of the files, under the names of their classes."""
        return class_folders.fingerprint(self.paths, self.class_names)

    def __len__(self) -> int:
        return len(self.paths)

    def prepare(self, names: Names) -> None:
        """See `Source`: looks at the first and the last file."""
        self.fetch(np.array([0, len(self) - 1]), names)

    def fetch(self, indices: np.ndarray, names: Names) -> Columns:
        """See `Source`."""
        found: Columns = {}
        if "text" in names:
            texts = np.empty(len(indices), object)
            texts[:] = [text.read_file(self.paths[index]) for index in indices]
            found["text"] = {"": texts}
        if "label" in names:
            found["label"] = {"": self.labels[indices]}
        return found


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
