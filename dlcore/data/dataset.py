"""What a training needs of any dataset, whatever its examples hold."""

import abc
from collections.abc import Iterator, Mapping, Sized
from typing import Any, Protocol, Self

import jax
import numpy as np

from dlcore.data.features import Feature
from dlcore.data.options import Options

HostBatch = dict[str, np.ndarray]
# What a task needs: the kinds of feature that will do, by the key under which it wants one.
Needs = Mapping[str, tuple[type[Feature], ...]]


class TrainBatches(Protocol):
    """An endless, resumable stream of one process's shares of the training batches."""

    @property
    def batch_size(self) -> int:
        """Examples (or rows of text) in a global batch."""

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
      features: what an example holds, by the key of a batch.
      splits: "train", and "validation" and "test" where there are any.
      options: as it was opened with, complete.
    """

    name: str
    features: Mapping[str, Feature]
    splits: Mapping[str, Sized]
    options: Options

    @property
    @abc.abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """What can fill an open option of a model or a task, by the option's name.

        Some are measured when they are asked for. Of one feature to be predicted: `num_classes`
        (or numbers, or tags); of tags `num_tags`; of classes and tokens `frequencies`, how often
        each occurs in the training split, int64, which no recipe spells out. Of what a model looks
        at: `image_shape` as the model sees it, its `image_channels`, of a square its `image_size`,
        of what goes on for some time its `input_length`, of audio its `audio_rate`. Of tokens of
        one vocabulary `vocabulary_size`; of text `sequence_length`. Of boxes `max_boxes`.
        """

    @property
    @abc.abstractmethod
    def statistics(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Measured of the training split, by key and name.

        "mean" and "standard_deviation" of what is normalized, float32 `[channels]`; and
        "color_components" `[channels, channels]` of images that are augmented along these. Nothing
        of text.
        """

    @abc.abstractmethod
    def provide(self, needs: Needs) -> Self:
        """The dataset with what a task needs, under the task's keys, and nothing else in batches.

        A feature under the needed key is taken where it is of a right kind. Else the only one of a
        right kind that no other need has taken is renamed to that key. Where tokens are needed and
        there are none, a text is divided into some.

        Raises:
          UsageError: no feature or more than one would do; the one that does cannot be read, or an
            option does not fit it.
        """

    @abc.abstractmethod
    def num_examples(self, split: str) -> int:
        """The number of examples of a split."""

    @abc.abstractmethod
    def fingerprint(self, split: str) -> str:
        """A hash of the examples of a split and their order, the same wherever the data lie."""

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
        """A host batch to initialize and to infer shapes from: the first training examples."""

    @abc.abstractmethod
    def limited(self, count: int) -> Self:
        """The dataset whose train and validation splits are the first `count` training examples.

        Nothing is augmented: a sound model must be able to learn them by heart.
        """

    def sampled(self, count: int, seed: int) -> Self:
        """As `limited`, but a random choice, of all classes alike where examples have one.

        What is one running piece begins at its beginning.

        Raises:
          UsageError: there are not so many, or two of them differ only in what is to be predicted.
        """
        del seed
        return self.limited(count)
