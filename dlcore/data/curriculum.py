"""Easy examples first (Bengio et al. 2009): how difficult an example is, and when it joins in."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from dlcore.data.sources import CHUNK_BYTES, Split


@dataclasses.dataclass(frozen=True, eq=False)
class Curriculum:
    """A training that begins with the easiest examples and goes on to all of them.

    Attributes:
      difficulty: of each training example, float `[n]`, in any unit.
      epochs: how long some are left out: in epoch e = 0, 1, ... of these the training draws from
        the easiest (e + 1) / (epochs + 1) of the examples, and from then on from all.
    """

    difficulty: np.ndarray
    epochs: int

    def pool(self, epoch: int, least: int) -> np.ndarray:
        """Which examples an epoch draws from, the easiest first and at least that many."""
        count = len(self.difficulty)
        share = -(-count * (epoch + 1) // (self.epochs + 1))
        return self._easiest_first[: min(max(share, least), count)]

    @functools.cached_property
    def _easiest_first(self) -> np.ndarray:
        return np.argsort(self.difficulty, kind="stable")


def difficulty(split: Split, input_key: str, label_key: str, num_classes: int) -> np.ndarray:
    """How much farther an example is from its own class's mean than from the nearest other one.

    Euclidean distances between inputs as they are stored; negative where the nearest mean is of the
    right class, float64 `[n]`. It knows no model and reads the split twice.

    Args:
      split: of the training examples.
      input_key: of what is compared.
      label_key: of its class.
      num_classes: of that label.
    """
    counts, means = np.zeros(num_classes), np.zeros((num_classes, 0))
    for inputs, labels in _chunks(split, input_key, label_key):
        if not means.size:
            means = np.zeros((num_classes, inputs.shape[1]))
        for row, label in zip(inputs, labels, strict=True):
            means[label] += row
            counts[label] += 1
    # Squares keep their digits where numbers are counted from near all of them.
    center = means.sum(0) / counts.sum()
    means /= np.maximum(counts, 1)[:, None]
    means -= center
    return np.concatenate(
        [
            _margin(inputs - center, labels, means, counts > 0)
            for chunk in _chunks(split, input_key, label_key)
            for inputs, labels in _pieces(*chunk)
        ]
    )


def _margin(
    inputs: np.ndarray, labels: np.ndarray, means: np.ndarray, has_mean: np.ndarray
) -> np.ndarray:
    squares = np.einsum("ni,ni->n", inputs, inputs)[:, None] + np.einsum("ci,ci->c", means, means)
    distances = np.sqrt(np.maximum(squares - 2 * (inputs @ means.T), 0))
    distances = np.where(has_mean, distances, np.inf)
    rows = np.arange(len(labels))
    own = distances[rows, labels]
    distances[rows, labels] = np.inf
    return own - distances.min(1)


def _chunks(
    split: Split, input_key: str, label_key: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs `[n, size]`, as they are stored, and labels `[n]`, in order."""
    for examples in split.only(input_key, label_key).chunks():
        labels = examples[label_key]
        yield examples[input_key].reshape(len(labels), -1), labels


def _pieces(inputs: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As many of them at a time as are no more than a chunk in float64, too."""
    size = max(CHUNK_BYTES // (8 * inputs.shape[1]), 1)
    for start in range(0, len(labels), size):
        yield inputs[start : start + size], labels[start : start + size]
