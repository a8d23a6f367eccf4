"""Random access to examples: arrays in memory, or records decoded as they are read."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from dlcore.data import fingerprints
from dlcore.data.features import Feature
from dlcore.data.values import Parts, stored
from dlcore.errors import UsageError

# A dataset whose decoded splits together exceed this streams; MNIST holds 55 MB, CIFAR-10 180 MB.
IN_MEMORY_BYTES = 2 * 1024**3
# What is looked at once, example after example, is read in pieces of about these many bytes, and of
# no more examples: what is read of each may be a small part of it.
CHUNK_BYTES = 32 * 1024**2
_CHUNK = 1024

Names = Collection[str]
# The arrays of features, by name.
Columns = dict[str, Parts]


class Source(Protocol):
    """Examples that can be read in any order."""

    @property
    def features(self) -> Mapping[str, Feature]:
        """What an example holds, by the source's own names."""

    @property
    def streams(self) -> bool:
        """Whether reading costs time, so that batches are worth reading ahead in threads."""

    @property
    def fingerprint(self) -> str:
        """A hash of the examples and their order, the same wherever they lie."""

    def __len__(self) -> int: ...

    def prepare(self, names: Names) -> None:
        """Reads what will be asked for, or enough of it to see that it can be read.

        Raises:
          UsageError: see `fetch`.
        """

    def fetch(self, indices: np.ndarray, names: Names) -> Columns:
        """The arrays `[n, ...]` of those features of the examples at `indices` `[n]`.

        Raises:
          UsageError: an example is damaged, or is not what its feature says.
        """


class Arrays:
    """A source that is in memory already.

    Args:
      features: what an example holds.
      arrays: by name; those of a feature of several parts by its name with the part appended.
      where: dataset and split, as an error names them.
      given: those that the arrays were made of, where machines may do so with other roundings: by
        these the source is known again.

    Raises:
      UsageError: an array is missing or not what its feature says, or lengths differ.
    """

    streams: ClassVar[bool] = False

    def __init__(
        self,
        features: Mapping[str, Feature],
        arrays: Mapping[str, np.ndarray],
        where: str = "these arrays",
        given: Mapping[str, np.ndarray] | None = None,
    ):
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            counts = ", ".join(f"{count} in {name}" for name, count in lengths.items())
            raise UsageError(
                f"{where}: all arrays must have the same number of examples: there are"
                f" {counts or 'none'}"
            )
        known = {name + part for name, feature in features.items() for part in feature.parts}
        if strange := sorted(arrays.keys() - known):
            raise UsageError(
                f"{where}: no feature describes {', '.join(strange)}: there are"
                f" {', '.join(features)}"
            )
        self.features, self._given = features, given
        self._length = next(iter(lengths.values()))
        self._parts = {
            name: stored(
                feature,
                {part: arrays[name + part] for part in feature.parts if name + part in arrays},
                where,
                name,
                np.arange(self._length),
            )
            for name, feature in features.items()
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """See `Source`."""
        return fingerprints.of_arrays(
            self._given
            or {name + part: a for name, parts in self._parts.items() for part, a in parts.items()}
        )

    def __len__(self) -> int:
        return self._length

    def prepare(self, names: Names) -> None:
        """See `Source`; everything is there."""

    def fetch(self, indices: np.ndarray, names: Names) -> Columns:
        """See `Source`."""
        return _taken(self._parts, indices, names)


class Held:
    """A source that is read into memory, each feature when it is first asked for.

    Args:
      source: what is read.
      remember: `(names, make) -> arrays` gives what `make(names)` gave an earlier time, or gives
        now.
    """

    streams: ClassVar[bool] = False

    def __init__(
        self,
        source: Source,
        remember: Callable[[Names, Callable[[Names], Columns]], Columns],
    ):
        self._source, self._remember = source, remember
        self._parts: Columns = {}
        # A training and its evaluation read in threads of their own.
        self._lock = threading.Lock()

    @property
    def features(self) -> Mapping[str, Feature]:
        """See `Source`."""
        return self._source.features

    @property
    def fingerprint(self) -> str:
        """See `Source`."""
        return self._source.fingerprint

    def __len__(self) -> int:
        return len(self._source)

    def prepare(self, names: Names) -> None:
        """See `Source`: reads them all."""
        with self._lock:
            missing = [name for name in names if name not in self._parts]
            if missing:
                self._parts |= self._remember(missing, lambda names: read(self._source, names))

    def fetch(self, indices: np.ndarray, names: Names) -> Columns:
        """See `Source`."""
        self.prepare(names)
        return _taken(self._parts, indices, names)


def _taken(parts: Columns, indices: np.ndarray, names: Names) -> Columns:
    return {name: {part: array[indices] for part, array in parts[name].items()} for name in names}


def read(source: Source, names: Names) -> Columns:
    """Those features of all examples of a source."""
    whole: Columns = {}
    places = np.arange(len(source))
    for chunk, columns in _in_chunks(places, lambda some: source.fetch(some, names), _column_bytes):
        for name, parts in columns.items():
            for part, array in parts.items():
                room = whole.setdefault(name, {})
                if part not in room:
                    room[part] = np.empty((len(source), *array.shape[1:]), array.dtype)
                room[part][chunk] = array
    return whole


def _in_chunks[Read](
    places: np.ndarray, fetch: Callable[[np.ndarray], Read], num_bytes: Callable[[Read], int]
) -> Iterator[tuple[np.ndarray, Read]]:
    """What is fetched of places `[n]`, some at a time; the first one tells how many."""
    start, count = 0, 1
    while start < len(places):
        some = places[start : start + count]
        found = fetch(some)
        yield some, found
        start += count
        count = min(max(CHUNK_BYTES * len(some) // max(num_bytes(found), 1), 1), _CHUNK)


def _column_bytes(columns: Columns) -> int:
    return sum(array.nbytes for parts in columns.values() for array in parts.values())


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Chosen examples of a source, in a fixed order.

    Attributes:
      source: where they are read.
      indices: their places in it, int64 `[n]`.
      names: what is read of each, by the key that it gets: the source's own names.
    """

    source: Source
    indices: np.ndarray
    names: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def fingerprint(self) -> str:
        """A hash of these examples and their order, the same wherever they lie."""
        return fingerprints.of_choice(self.source.fingerprint, self.indices)

    def fetch(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at those positions in the split, as they lie in a batch but for its mask."""
        read = self.source.fetch(self.indices[positions], tuple(self.names.values()))
        return {
            key + part: array
            for key, name in self.names.items()
            for part, array in read[name].items()
        }

    def only(self, *keys: str) -> Self:
        """The same examples, of which no more than that is read."""
        return dataclasses.replace(self, names={key: self.names[key] for key in keys})

    def chunks(self, positions: np.ndarray | None = None) -> Iterator[dict[str, np.ndarray]]:
        """What `fetch` gives, bounded in bytes each time, of all examples or those at positions."""
        wanted = np.arange(len(self)) if positions is None else positions
        for _, examples in _in_chunks(wanted, self.fetch, _example_bytes):
            yield examples

    def each(self, key: str) -> Iterator[Any]:
        """What one array holds of each example, one after the other."""
        for examples in self.only(key).chunks():
            yield from examples[key]

    def column(self, key: str) -> np.ndarray:
        """One array of all examples that is small, as a class: no more than that is held."""
        return np.concatenate([examples[key] for examples in self.only(key).chunks()])


def _example_bytes(examples: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in examples.values())
