"""Folders of one's own images, one folder a class, or without classes."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Mapping

import numpy as np

from dlcore.data import decoding, fingerprints, listing
from dlcore.data.features import ClassLabel, Feature, Image
from dlcore.data.options import Options, chosen_splits, is_split
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
    inner = [root, *listing.folders(root).values()]
    deepest = (path for folder in inner[1:] for path in listing.folders(folder).values())
    return any(map(_files, itertools.chain(inner, deepest)))


def open_images(
    root: pathlib.Path, options: Options, resize: int, cut_square: bool = False
) -> dict[str, FolderExamples]:
    """The splits of a folder. One line of the log names what of it is not read.

    Args:
      root: holds one folder a class, or images, or such folders in `train` and optionally
        `validation` (or `val`, `valid`) and `test`; `train` is a class where it lies among other
        classes and beside no other split. The images, of any kind that `decoding.decode` reads, are
        gray if all of them are, else in color. What is hidden does not count.
      options: which folder is used as which split.
      resize: the side of the squares that they are resized to; 0 where all have the same size.
      cut_square: whether their central squares are resized, instead of the whole images.

    Raises:
      UsageError: there are no images, or they cannot be read.
    """
    roots = _roots(root, options)
    classes = {
        name: folder for name, folder in listing.folders(roots["train"]).items() if _files(folder)
    }
    class_names = tuple(classes)
    files = {split: _images(folder, class_names) for split, folder in roots.items()}
    for split, paths in files.items():
        if not paths:
            folder = roots[split]
            raise UsageError(
                f"no images in {folder}: they are looked for in {folder}/CLASS/*.png (or .jpg, ...)"
                f" and in {folder} itself"
            )
    every = [path for paths in files.values() for path in paths]
    opened = (root, *roots.values(), *(path.parent for path in every))
    listing.report_rest(root, dict.fromkeys(opened), every)
    shape = _common_shape(every, resize)
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


def _roots(root: pathlib.Path, options: Options) -> dict[str, pathlib.Path]:
    """The folder of each split, `root` itself where it is not divided."""
    folders = listing.folders(root)
    if not options.splits and ("train" not in folders or _train_is_class(folders)):
        return {"train": root}
    chosen = chosen_splits(options, folders, str(root))
    return {split: folders[own] for split, own in chosen.items()}


def _train_is_class(folders: Mapping[str, pathlib.Path]) -> bool:
    """Whether `train` is a class: it holds images, as others do, none of which is named a split."""
    train, others = folders["train"], [name for name in folders if name != "train"]
    return (
        bool(_files(train))
        and not any(map(_files, listing.folders(train).values()))
        and any(_files(folders[name]) for name in others)
        and not any(map(is_split, others))
    )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return listing.files(folder, decoding.suffixes())


def _images(folder: pathlib.Path, class_names: tuple[str, ...]) -> list[pathlib.Path]:
    if not class_names:
        return _files(folder)
    found = {name: _files(path) for name, path in listing.folders(folder).items()}
    for name, paths in found.items():
        if paths and name not in class_names:
            raise UsageError(
                f"{folder / name} is no class of the training images: those are"
                f" {', '.join(class_names)}"
            )
    return [path for paths in found.values() for path in paths]


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
