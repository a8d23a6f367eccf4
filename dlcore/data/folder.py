"""Folders of one's own images, one folder a class, or without classes."""

import dataclasses
import pathlib
from typing import override

import numpy as np

from dlcore.data import class_folders, decoding, listing
from dlcore.data.class_folders import ClassFiles
from dlcore.data.features import Feature, Image
from dlcore.data.options import Options
from dlcore.errors import UsageError

_GRAY_MODES = ("1", "L")


@dataclasses.dataclass(frozen=True, eq=False)
class FolderExamples(ClassFiles):
    """The image files of one split: a `Source` that streams.

    Attributes:
      shape: of one image as it is read.
      resize: whether images are resized to that shape; otherwise they must have it.
      cut_square: whether their central squares are.
    """

    shape: tuple[int, int, int]
    resize: bool
    cut_square: bool = False

    @property
    @override
    def content(self) -> tuple[str, Feature]:
        return "image", Image(self.shape)

    @property
    def num_bytes(self) -> int:
        """What all examples take in memory."""
        return len(self) * int(np.prod(self.shape))

    @override
    def read(self, paths: list[pathlib.Path]) -> np.ndarray:
        images = np.empty((len(paths), *self.shape), np.uint8)
        for place, path in enumerate(paths):
            images[place] = self._read(path)
        return images

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
