"""Random access to examples: arrays in memory, or records decoded as they are read."""

import dataclasses
from typing import ClassVar, Protocol

import numpy as np

from dlcore.errors import UsageError

# A dataset whose decoded splits together exceed this streams; MNIST holds 55 MB, CIFAR-10 180 MB.
IN_MEMORY_BYTES = 2 * 1024**3
_CHUNK = 1000


class Source(Protocol):
    """Labelled examples that can be read in any order."""

    @property
    def streams(self) -> bool:
        """Whether reading costs time, so that batches are worth reading ahead in threads."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image `(height, width, channels)` or row of a table `(features,)`."""

    @property
    def dtype(self) -> np.dtype:
        """Of the images: uint8 in 0..255, or float32."""

    def __len__(self) -> int: ...

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """`image` `[n, *shape]` and `label` of the examples at `indices` `[n]`.

        A label is a class, int32 `[n]`, or several numbers, float32 `[n, outputs]`.

        Raises:
          UsageError: an example is damaged, or is not what the dataset says it is.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """A source that is one array in memory.

    Attributes:
      images: uint8 or float32, `[n, *shape]`.
      labels: int32 `[n]`, or float32 `[n, outputs]`.
    """

    images: np.ndarray
    labels: np.ndarray
    streams: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Source`."""
        return self.images.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """See `Source`."""
        return self.images.dtype

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """See `Source`."""
        return {"image": self.images[indices], "label": self.labels[indices]}


def num_bytes(source: Source) -> int:
    """What the images of a source take in memory."""
    return len(source) * int(np.prod(source.shape)) * source.dtype.itemsize


def hold(source: Source) -> Arrays:
    """Everything in a source, read into memory."""
    images = np.empty((len(source), *source.shape), source.dtype)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _CHUNK):
        chunk = slice(start, min(start + _CHUNK, len(source)))
        examples = source.fetch(np.arange(chunk.start, chunk.stop))
        images[chunk], labels[chunk] = examples["image"], examples["label"]
    return Arrays(images, labels)


def check(
    where: str, indices: np.ndarray, images: np.ndarray, labels: np.ndarray, num_classes: int
) -> None:
    """Refuses labels that name no class and images that hold no number.

    Args:
      where: dataset and split, as an error names them.
      indices: of the examples in the split, `[n]`.
      images: `[n, ...]`.
      labels: int32 `[n]`, or float32 `[n, outputs]`.
      num_classes: integer labels must be in 0..num_classes - 1.

    Raises:
      UsageError: naming the first bad example's index and value.
    """
    classes = labels if np.issubdtype(labels.dtype, np.integer) else np.zeros(0, np.int32)
    bad = np.flatnonzero((classes < 0) | (classes >= num_classes))
    if bad.size:
        raise UsageError(
            f"{where}: example {indices[bad[0]]} has label {labels[bad[0]]}:"
            f" it must be in 0..{num_classes - 1}"
        )
    if not np.issubdtype(images.dtype, np.floating):
        return
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise UsageError(
            f"{where}: example {indices[np.argmin(finite)]} holds NaN or infinity:"
            " every input must be a finite number"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Chosen examples of a source, in a fixed order.

    Attributes:
      source: where they are read.
      indices: their places in it, int64 `[n]`.
    """

    source: Source
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at those positions in the split."""
        return self.source.fetch(self.indices[positions])
