"""Folders of one's own images, one folder a class, or without classes."""

import dataclasses
import pathlib

import numpy as np

from dlcore.data import decoding
from dlcore.data.features import ClassLabel, Feature, Image
from dlcore.data.options import Options, chosen_splits
from dlcore.data.sources import Columns, Names
from dlcore.errors import UsageError

_SUFFIXES = (".png", ".jpg", ".jpeg")
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


def open_images(
    root: pathlib.Path, options: Options, resize: int, cut_square: bool = False
) -> dict[str, FolderExamples]:
    """The splits of a folder.

    Args:
      root: holds one folder a class, or images, or such folders in `train` and optionally
        `validation` and `test`. The images, `.png` or `.jpg`, are gray if all of them are, else in
        color.
      options: which folder is used as which split.
      resize: the side of the squares that they are resized to; 0 where all have the same size.
      cut_square: whether their central squares are resized, instead of the whole images.

    Raises:
      UsageError: there are no images, or they cannot be read.
    """
    folders = {path.name: path for path in root.iterdir() if _is_class(path)}
    roots = {"train": root}
    if "train" in folders or options.splits:
        chosen = chosen_splits(options, folders, str(root))
        roots = {split: folders[own] for split, own in chosen.items()}
    classes = [path for path in roots["train"].iterdir() if _is_class(path)]
    # Folders without any image are no classes of the images that lie beside them.
    class_names = tuple(sorted(path.name for path in classes)) if any(map(_files, classes)) else ()
    files = {split: _images(folder, class_names) for split, folder in roots.items()}
    for split, paths in files.items():
        if not paths:
            folder = roots[split]
            raise UsageError(
                f"no images in {folder}: they are looked for in"
                f" {folder}/CLASS/*{{{','.join(_SUFFIXES)}}} and in {folder} itself"
            )
    shape = _common_shape([path for paths in files.values() for path in paths], resize)
    numbers = {name: number for number, name in enumerate(class_names)}
    return {
        split: FolderExamples(
            paths,
            np.array([numbers.get(path.parent.name, 0) for path in paths], np.int32),
            class_names,
            shape,
            bool(resize),
            cut_square,
        )
        for split, paths in files.items()
    }


def _is_class(path: pathlib.Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _images(folder: pathlib.Path, class_names: tuple[str, ...]) -> list[pathlib.Path]:
    if not class_names:
        return _files(folder)
    for path in folder.iterdir():
        if _is_class(path) and path.name not in class_names:
            raise UsageError(
                f"{path} is no class of the training images: those are {', '.join(class_names)}"
            )
    there = [folder / name for name in class_names if (folder / name).is_dir()]
    return [path for of_class in there for path in _files(of_class)]


def _common_shape(paths: list[pathlib.Path], resize: int) -> tuple[int, int, int]:
    """Height, width and channels of all images, from their headers."""
    from PIL import Image

    gray = True
    for path in paths:
        try:
            with Image.open(path) as image:
                gray = gray and image.mode in _GRAY_MODES
        except Exception as error:  # Pillow raises a dozen kinds for damaged files.
            raise UsageError(f"cannot read image {path}: {error}") from error
    channels = 1 if gray else 3
    size = (resize, resize) if resize else decoding.decode(paths[0], channels).shape[:2]
    return (*size, channels)
