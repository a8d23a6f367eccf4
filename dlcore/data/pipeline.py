"""From examples to batches: their order, their split among processes, and the padded last one."""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterator

import numpy as np

from dlcore.data.curriculum import Curriculum
from dlcore.data.dataset import HostBatch
from dlcore.data.sources import Split
from dlcore.errors import UsageError

_READERS = 4


def permutation(count: int, seed: int, *stream: int) -> np.ndarray:
    """A random order of 0..count - 1, int64 `[count]`: a pure function of its arguments."""
    # NumPy promises the raw bits of a generator for all its versions, but not its shuffles.
    bits = np.random.Philox(np.random.SeedSequence((seed, *stream))).random_raw(count)
    return np.argsort(bits, kind="stable")


# Some, as readers that run ahead of the consumer work on both sides of an order's end.
_order = functools.lru_cache(maxsize=4)(permutation)


def other_seed(seed: int) -> int:
    """A seed whose orders have nothing to do with those of the given one."""
    return int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])


def carve(indices: np.ndarray, fraction: float, seed: int, stream: int) -> tuple[np.ndarray, ...]:
    """Divides indices at random into (the rest, `fraction` of them), both in ascending order."""
    order = permutation(len(indices), seed, stream)
    count = round(len(indices) * fraction)
    return np.sort(indices[order[count:]]), np.sort(indices[order[:count]])


def carve_by_class(
    indices: np.ndarray, labels: np.ndarray, fraction: float, seed: int, stream: int
) -> tuple[np.ndarray, ...]:
    """As `carve`, but with the same share of each class, to within one example.

    Args:
      indices: int64 `[n]`.
      labels: their classes, int32 `[n]`.
      fraction: of all that are carved out, rounded.
      seed: of the random choice.
      stream: of the seed.
    """
    order = permutation(len(indices), seed, stream)
    order = order[np.argsort(labels[order], kind="stable")]
    count = round(len(indices) * fraction)
    # One from the middle of each of `count` equal stretches, within which the order is random.
    places = (2 * np.arange(count) + 1) * len(indices) // (2 * count)
    return np.sort(indices[np.delete(order, places)]), np.sort(indices[order[places]])


def some_of_each(labels: np.ndarray, count: int, seed: int, stream: int) -> np.ndarray:
    """The places of `count` random examples of each class, ascending; all of a class with fewer."""
    order = permutation(len(labels), seed, stream)
    members = [order[labels[order] == label][:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(members))


def balanced(labels: np.ndarray, count: int, seed: int, stream: int) -> np.ndarray:
    """The places of `count` random examples, ascending, of all classes alike while they last."""
    order = permutation(len(labels), seed, stream)
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = labels[order] == label
        turn[members] = np.arange(members.sum())
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def share(batch_size: int, process_index: int, process_count: int) -> slice:
    """The contiguous part of a global batch that a process makes.

    Raises:
      UsageError: the batch does not divide.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UsageError(
            f"batch_size {batch_size} does not divide among {process_count} process(es):"
            f" it must be a positive multiple of {process_count}"
        )
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


def sequence(
    batch: Callable[[int], HostBatch], start: int, stop: int | None, streams: bool
) -> Iterator[HostBatch]:
    """`batch(start)`, `batch(start + 1)`, ... to `stop` or endlessly.

    Where reading is slow (`streams`), Grain's threads read ahead; the order stays.
    """
    if not streams:
        return map(batch, itertools.count(start) if stop is None else range(start, stop))
    import grain

    steps = grain.MapDataset.range(start, sys.maxsize if stop is None else stop)
    options = grain.ReadOptions(num_threads=_READERS, prefetch_buffer_size=2 * _READERS)
    return iter(steps.map(batch).to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class ShuffledBatches:
    """The training batches of one process: see `Dataset.train_batches`.

    An epoch of a curriculum is as long as any other: what it draws from comes in several rounds.
    """

    split: Split
    batch_size: int
    seed: int
    share: slice
    curriculum: Curriculum | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the split."""
        return len(self.split) // self.batch_size

    @property
    def streams(self) -> bool:
        """Whether batches are worth reading ahead."""
        return self.split.source.streams

    def batch(self, step: int) -> HostBatch:
        """This process's share of the batch at a step counted from the training's start."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self.batch_size
        places = np.arange(first + self.share.start, first + self.share.stop)
        examples = self.split.fetch(self._drawn(epoch, places))
        return examples | {"mask": np.ones(len(places), np.float32)}

    def _drawn(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """The examples at those places of an epoch's order."""
        if not self.curriculum or epoch >= self.curriculum.epochs:
            return _order(len(self.split), self.seed, epoch)[places]
        pool = self.curriculum.pool(epoch, self.batch_size)
        rounds, places = np.divmod(places, len(pool))
        drawn = [
            _order(len(pool), self.seed, epoch, int(turn))[places[rounds == turn]]
            for turn in np.unique(rounds)
        ]
        return pool[np.concatenate(drawn)]

    def start(self, step: int) -> Iterator[HostBatch]:
        """The batches from `step` on, endlessly."""
        return sequence(self.batch, step, None, self.streams)


def train_batches(
    split: Split,
    batch_size: int,
    seed: int,
    process_index: int,
    process_count: int,
    curriculum: Curriculum | None = None,
) -> ShuffledBatches:
    """See `Dataset.train_batches`."""
    part = share(batch_size, process_index, process_count)
    if batch_size > len(split):
        raise UsageError(
            f"batch_size {batch_size} exceeds the {len(split)} training examples:"
            " it must be at most that"
        )
    return ShuffledBatches(split, batch_size, seed, part, curriculum)


@dataclasses.dataclass(frozen=True)
class OrderedBatches:
    """One process's share of every example of a split: see `Dataset.evaluation_batches`."""

    split: Split
    batch_size: int
    share: slice

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def batch(self, step: int) -> HostBatch:
        """The batch at a step; behind the split's end, its last example stands with mask 0."""
        first = step * self.batch_size
        positions = np.arange(first, first + self.batch_size)[self.share]
        examples = self.split.fetch(np.minimum(positions, len(self.split) - 1))
        return examples | {"mask": (positions < len(self.split)).astype(np.float32)}

    def __iter__(self) -> Iterator[HostBatch]:
        return sequence(self.batch, 0, len(self), self.split.source.streams)


def evaluation_batches(
    split: Split, batch_size: int, process_index: int, process_count: int
) -> OrderedBatches:
    """See `Dataset.evaluation_batches`."""
    return OrderedBatches(split, batch_size, share(batch_size, process_index, process_count))
