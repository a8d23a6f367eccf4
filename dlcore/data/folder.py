"""Folders of one's own images, one folder a class, or without classes."""

import dataclasses
import functools
import pathlib

import numpy as np

from dlcore.data import class_folders, decoding, listing
from dlcore.data.features import ClassLabel, Feature, Image
from dlcore.data.options import Options
from dlcore.data.sources import Columns, Names
from dlcore.errors import UsageError

_GRAY_MODES = ("1", "L")


@dataclasses.dataclass(frozen=True, eq=False)
class FolderExamples:
    """The image files of one split: a `Source` that streams.

    Attributes:
      paths: of the files.
      labels: their classes, int32.
      class_names: of the classes; empty where there are none.
      shape: of one image as it is read.
      resize: whether images are resized to that shape; otherwise they must have it.
      cut_square: whether their central squares are.
    """

    paths: list[pathlib.Path]
    labels: np.ndarray
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    resize: bool
    cut_square: bool = False
    streams = True

    @property
    def features(self) -> dict[str, Feature]:
        """See `Source`."""
        image: dict[str, Feature] = {"image": Image(self.shape)}
        return {**image, "label": ClassLabel(self.class_names)} if self.class_names else image

    @property
    def num_bytes(self) -> int:
        """What all examples take in memory."""
        return len(self) * int(np.prod(self.shape))

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
        if "image" in names:
            images = np.empty((len(indices), *self.shape), np.uint8)
            for place, index in enumerate(indices):
                images[place] = self._read(self.paths[index])
            found["image"] = {"": images}
        if "label" in names:
            found["label"] = {"": self.labels[indices]}
        return found

    def _read(self, path: pathlib.Path) -> np.ndarray:
        size = self.shape[:2] if self.resize else None
        image = decoding.decode(path, self.shape[-1], size, self.cut_square)
        if image.shape != self.shape:
            height, width, _ = self.shape
            raise UsageError(
                f"images differ in size: {path} has {image.shape[0]} x {image.shape[1]} pixels,"
                f" {self.paths[0]} {height} x {width}: set resize to the side they should all have"
            )
        return image


def holds_images(root: pathlib.Path) -> bool:
    """Whether a folder holds images, or they lie in its folders, or in the folders of those."""
    return class_folders.holds(root, _files)


def open_images(
    root: pathlib.Path, options: Options, resize: int, cut_square: bool = False
) -> dict[str, FolderExamples]:
    """The splits of a folder. One line of the log names what of it is not read.

    Args:
      root: see `class_folders.divide`; of images, of any kind that `decoding.decode` reads. They
        are gray if all of them are, else in color.
      options: which folder is used as which split.
      resize: the side of the squares that they are resized to; 0 where all have the same size.
      cut_square: whether their central squares are resized, instead of the whole images.

    Raises:
      UsageError: there are no images, or they cannot be read.
    """
    divided = class_folders.divide(root, options, _files, "images", "*.png (or .jpg, ...)")
    shape = _common_shape([path for paths in divided.files.values() for path in paths], resize)
    return {
        split: FolderExamples(
            paths, divided.labels(split), divided.class_names, shape, bool(resize), cut_square
        )
        for split, paths in divided.files.items()
    }


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return listing.files(folder, decoding.suffixes())


def _common_shape(paths: list[pathlib.Path], resize: int) -> tuple[int, int, int]:
    """Height, width and channels of all images, from their headers."""
    gray = True
    for path in paths:
        try:
            with decoding.opened(path) as image:
                gray = gray and image.mode in _GRAY_MODES
        except Exception as error:  # Pillow raises a dozen kinds for damaged files.
            raise UsageError(f"cannot read image {path}: {error}") from error
    channels = 1 if gray else 3
    size = (resize, resize) if resize else decoding.decode(paths[0], channels).shape[:2]
    return (*size, channels)
