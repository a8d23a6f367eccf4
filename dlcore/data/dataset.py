"""What the launcher needs of any dataset, whatever its examples are."""

import abc
from collections.abc import Iterator, Mapping, Sized
from typing import Any, Protocol

import jax
import numpy as np

HostBatch = dict[str, np.ndarray]


class TrainBatches(Protocol):
    """An endless, resumable stream of one process's shares of the training batches."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training split; the remainder is dropped."""

    def batch(self, step: int) -> HostBatch:
        """This process's share of the batch at a step counted from the training's start."""

    def start(self, step: int) -> Iterator[HostBatch]:
        """The batches from `step` on; the one at step s is a pure function of (seed, s)."""


class Dataset(abc.ABC):
    """Splits of examples, the batches made of them, and their preparation on the device.

    Attributes:
      name: as it was asked for.
      kind: "image" (or a row of numbers) with a class, "numbers" or "tags" (several yes or no) to
        predict from one; or "text".
      splits: "train", and "validation" and "test" where there are any.
      class_names: names of the labels 0, 1, ..., or of the numbers or tags; empty for text.
      statistics: "mean" and "standard_deviation" of the training images, `[channels]`, and
        "colour_components", `[channels, channels]`, where they are augmented along these; empty for
        text.
    """

    name: str
    kind: str
    splits: Mapping[str, Sized]
    class_names: tuple[str, ...]
    statistics: Mapping[str, np.ndarray]

    @abc.abstractmethod
    def num_examples(self, split: str) -> int:
        """The number of examples of a split."""

    @abc.abstractmethod
    def transform(self, batch: Mapping[str, Any], key: jax.Array | None, train: bool) -> Any:
        """Prepares a batch on the device, inside the jitted step; randomly where `train`."""

    @abc.abstractmethod
    def train_batches(
        self, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ) -> TrainBatches:
        """This process's contiguous share of global batches of `batch_size`.

        Raises:
          UsageError: the batch does not divide among the processes, or exceeds the split.
        """

    @abc.abstractmethod
    def evaluation_batches(
        self, split: str, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[HostBatch]:
        """This process's share of every example of a split, once and in order.

        The last batch is filled up with examples whose mask is 0; all processes get equally many.
        """

    @abc.abstractmethod
    def example_batch(self, batch_size: int) -> HostBatch:
        """A host batch to initialise and to infer shapes from: the first training examples."""

    @abc.abstractmethod
    def limited(self, count: int) -> "Dataset":
        """The dataset whose train and validation splits are the first `count` training examples.

        Nothing is augmented: a sound model must be able to learn them by heart.
        """
