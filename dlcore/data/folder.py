"""Folders of one's own images, one folder a class."""

import dataclasses
import pathlib

import numpy as np

from dlcore.data import decoding
from dlcore.errors import UsageError

_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY_MODES = ("1", "L")


@dataclasses.dataclass(frozen=True, eq=False)
class FolderExamples:
    """The image files of one split: a `Source` that streams.

    Attributes:
      paths: of the files.
      labels: their classes, int32.
      shape: of one image as it is read.
      resize: whether images are resized to that shape; otherwise they must have it.
    """

    paths: list[pathlib.Path]
    labels: np.ndarray
    shape: tuple[int, int, int]
    resize: bool
    dtype = np.dtype(np.uint8)
    streams = True

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source`."""
        images = np.empty((len(indices), *self.shape), np.uint8)
        for place, index in enumerate(indices):
            image = decoding.decode(
                self.paths[index], self.shape[-1], self.shape[:2] if self.resize else None
            )
            if image.shape != self.shape:
                raise _unequal(self.paths[index], image.shape, self.paths[0], self.shape)
            images[place] = image
        return {"image": images, "label": self.labels[indices]}


def open_images(
    root: pathlib.Path, resize: int
) -> tuple[dict[str, FolderExamples], tuple[str, ...]]:
    """The splits of a folder and the names of its classes.

    Args:
      root: holds one folder a class, or such folders in `train` and optionally `validation` and
        `test`. The images, `.png` or `.jpg`, are grey if all of them are, else in colour.
      resize: the side of the squares that they are resized to; 0 where all have the same size.

    Raises:
      UsageError: there are no images, they cannot be read, or their sizes differ.
    """
    roots = {
        name: root / name for name in ("train", "validation", "test") if (root / name).is_dir()
    }
    if "train" not in roots:
        roots = {"train": root}
    class_names = tuple(sorted(path.name for path in roots["train"].iterdir() if _is_class(path)))
    files = {
        split: [
            (path, class_names.index(path.parent.name)) for path in _images(folder, class_names)
        ]
        for split, folder in roots.items()
    }
    paths = [path for examples in files.values() for path, _ in examples]
    if not files["train"]:
        raise UsageError(
            f"no images in {roots['train']}: they are looked for in"
            f" {roots['train']}/CLASS/*{{{','.join(_SUFFIXES)}}}"
        )
    shape = _common_shape(paths, resize)
    sources = {
        split: FolderExamples(
            [path for path, _ in examples],
            np.array([label for _, label in examples], np.int32),
            shape,
            bool(resize),
        )
        for split, examples in files.items()
    }
    return sources, class_names


def _is_class(path: pathlib.Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _images(folder: pathlib.Path, class_names: tuple[str, ...]) -> list[pathlib.Path]:
    for path in folder.iterdir():
        if _is_class(path) and path.name not in class_names:
            raise UsageError(
                f"{path} is no class of the training images: those are {', '.join(class_names)}"
            )
    return sorted(
        path
        for name in class_names
        if (folder / name).is_dir()
        for path in (folder / name).iterdir()
        if path.suffix.lower() in _SUFFIXES
    )


def _common_shape(paths: list[pathlib.Path], resize: int) -> tuple[int, int, int]:
    """Height, width and channels of all images, from their headers."""
    from PIL import Image

    grey = True
    for path in paths:
        try:
            with Image.open(path) as image:
                grey = grey and image.mode in _GREY_MODES
        except Exception as error:  # Pillow raises a dozen kinds for damaged files.
            raise UsageError(f"cannot read image {path}: {error}") from error
    channels = 1 if grey else 3
    size = (resize, resize) if resize else decoding.decode(paths[0], channels).shape[:2]
    return (*size, channels)


def _unequal(
    path: pathlib.Path, shape: tuple[int, ...], first: pathlib.Path, expected: tuple[int, ...]
) -> UsageError:
    return UsageError(
        f"images differ in size: {path} has {shape[0]} x {shape[1]} pixels,"
        f" {first} {expected[0]} x {expected[1]}: set resize to the side they should all have"
    )
