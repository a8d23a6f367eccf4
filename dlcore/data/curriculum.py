"""Easy examples first (Bengio et al. 2009): how difficult an example is, and when it joins in."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from dlcore.data.sources import Split

_CHUNK = 1024


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
    totals, counts = np.zeros(()), np.zeros(num_classes)
    for inputs, labels in _chunks(split, input_key, label_key):
        members = np.equal.outer(np.arange(num_classes), labels).astype(np.float64)
        totals, counts = totals + members @ inputs, counts + members.sum(1)
    means = totals / np.maximum(counts, 1)[:, None]
    return np.concatenate(
        [
            _margin(inputs, labels, means, counts > 0)
            for inputs, labels in _chunks(split, input_key, label_key)
        ]
    )


def _margin(
    inputs: np.ndarray, labels: np.ndarray, means: np.ndarray, has_mean: np.ndarray
) -> np.ndarray:
    squares = (inputs**2).sum(1)[:, None] + (means**2).sum(1) - 2 * inputs @ means.T
    distances = np.where(has_mean, np.sqrt(np.maximum(squares, 0)), np.inf)
    rows = np.arange(len(labels))
    own = distances[rows, labels]
    distances[rows, labels] = np.inf
    return own - distances.min(1)


def _chunks(
    split: Split, input_key: str, label_key: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs float64 `[n, size]` and labels `[n]`, in order."""
    for start in range(0, len(split), _CHUNK):
        examples = split.fetch(np.arange(start, min(start + _CHUNK, len(split))))
        labels = examples[label_key]
        yield examples[input_key].reshape(len(labels), -1).astype(np.float64), labels
