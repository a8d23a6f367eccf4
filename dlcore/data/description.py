"""What a dataset is, as plain data: recorded beside what was trained on it, compared, and read.

It says nothing of where the data lie or when they were written. With it alone, a trained model
answers for new inputs: see `described`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, NoReturn, TypedDict, override

import msgspec
import numpy as np

from dlcore.data import augmentation, registration
from dlcore.data import features as kinds
from dlcore.data.dataset import Dataset, HostBatch
from dlcore.data.examples import ExampleDataset
from dlcore.data.features import Feature
from dlcore.data.options import ExampleOptions, Options, TextOptions
from dlcore.data.sources import Columns, Names, Split
from dlcore.data.text import TextDataset
from dlcore.errors import UsageError, some

# By how much of the standard deviation statistics may differ that were computed elsewhere, where
# images are decoded to nearly the same pixels.
_ROUNDING = 1e-2
# Names that are few enough to be listed in a message.
_LISTED = 10
_KINDS: dict[str, type[Feature]] = {
    kind.__name__: kind
    for kind in vars(kinds).values()
    if isinstance(kind, type) and issubclass(kind, Feature)
}


Statistics = dict[str, dict[str, list[Any]]]


class Array(TypedDict):
    """An array of a host batch, for one example."""

    dtype: str
    shape: list[int]


class Description(TypedDict):
    """What a dataset is, under names that JSON holds.

    `kind` is its class; `features` by key, each with its kind and its fields; `arrays` of an
    example in a batch; `counts` of examples and `fingerprints` by split; `statistics`, by key and
    name, as far as they are used.
    """

    kind: str
    features: dict[str, dict[str, Any]]
    arrays: dict[str, Array]
    counts: dict[str, Annotated[int, msgspec.Meta(ge=0)]]
    statistics: Statistics
    fingerprints: dict[str, str]


def describe(dataset: Dataset) -> Description:
    """What a dataset is, as far as its batches hold it: after `provide`, what a task reads.

    Raises:
      UsageError: it cannot be read.
    """
    if isinstance(dataset, DescribedExamples | DescribedText):
        return dataset.description
    arrays = {key: array for key, array in dataset.example_batch(1).items() if key != "mask"}
    return {
        "kind": type(dataset).__name__,
        "features": {
            key: _plain(feature) for key, feature in dataset.features.items() if key in arrays
        },
        "arrays": {
            key: {"dtype": str(array.dtype), "shape": list(array.shape[1:])}
            for key, array in arrays.items()
        },
        "counts": {split: dataset.num_examples(split) for split in dataset.splits},
        "statistics": {
            key: {name: array.astype(np.float64).tolist() for name, array in own.items()}
            for key, own in (dataset.statistics if _measures(dataset.options) else {}).items()
        },
        "fingerprints": {split: dataset.fingerprint(split) for split in dataset.splits},
    }


def _plain(feature: Feature) -> dict[str, Any]:
    fields = dataclasses.asdict(feature)
    plain = {
        name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()
    }
    return {"kind": type(feature).__name__, **plain}


def _measures(options: Options) -> bool:
    """Whether anything of the statistics is used."""
    return isinstance(options, ExampleOptions) and (
        options.normalize == "mean_std"
        or augmentation.needs_colors(augmentation.parse(options.augment))
    )


class Change(NamedTuple):
    """Something that a dataset no longer is: what, what it was before and what it is now."""

    what: str
    before: str
    now: str


def change(before: Description, now: Description) -> Change | None:
    """What has changed of a dataset, the most telling first; None where it is the same."""
    changes = itertools.chain(
        _changes_of_features(before, now),
        _changes_of_examples(before, now),
        _changes_of_statistics(before["statistics"], now["statistics"]),
    )
    return next(changes, None)


def _changes_of_features(before: Description, now: Description) -> Iterator[Change]:
    for key in sorted(before["features"].keys() | now["features"].keys()):
        old, new = before["features"].get(key), now["features"].get(key)
        if old != new:
            yield _change_of_feature(key, old or {}, new or {})
    for key, array in before["arrays"].items():
        if array != (other := now["arrays"].get(key)):
            yield Change(f"an example's {key!r}", _shown(array), _shown(other))


def _changes_of_examples(before: Description, now: Description) -> Iterator[Change]:
    for split in sorted(before["counts"].keys() | now["counts"].keys()):
        old, new = before["counts"].get(split, 0), now["counts"].get(split, 0)
        if old != new:
            yield Change(f"examples of {split}", str(old), str(new))
    for split, fingerprint in before["fingerprints"].items():
        if fingerprint != now["fingerprints"].get(split):
            yield Change(f"examples of {split}", str(before["counts"][split]), "as many others")


def _changes_of_statistics(before: Statistics, now: Statistics) -> Iterator[Change]:
    for key, own in before.items():
        for name, values in own.items():
            other = now.get(key, {}).get(name)
            if not _near(name, values, other, own):
                yield Change(f"the {name} of {key!r}", str(values), str(other))


def _change_of_feature(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
    if old.get("kind") != new.get("kind"):
        nouns = [_KINDS[each["kind"]].noun if each else "missing" for each in (old, new)]
        return Change(repr(key), *nouns)
    name = next(name for name in old if old[name] != new[name])
    one, two = old[name], new[name]
    if name == "vocabulary" or (isinstance(one, list) and max(len(one), len(two)) > _LISTED):
        return Change(f"the {name} of {key!r}", _told_apart(one, two), _told_apart(two, one))
    return Change(f"the {name} of {key!r}", _shown(one), _shown(two))


def _told_apart(many: Sequence[str], others: Sequence[str]) -> str:
    """How many there are, and some that the others lack."""
    known = set(others)
    own = [each for each in many if each not in known]
    how = "with" if own else "beginning with"
    return f"{len(many)}, {how} {some(list(map(repr, own or many)))}"


def _shown(value: Any) -> str:
    match value:
        case {"dtype": dtype, "shape": shape}:
            return f"{'x'.join(map(str, shape))} {dtype}".strip()
        case list():
            return ", ".join(map(str, value))
    return str(value)


def _near(name: str, old: Any, new: Any, own: Mapping[str, Any]) -> bool:
    before, now = np.asarray(old), np.asarray(np.nan if new is None else new)
    scale = np.asarray(own.get("standard_deviation", 1.0))
    if name == "color_components" and before.shape == now.shape:
        # Which way an eigenvector points is up to the processor.
        before, now = before @ before.T, now @ now.T
        scale = np.abs(before).max()
    return before.shape == now.shape and bool((np.abs(before - now) <= _ROUNDING * scale).all())


def described(description: Description, name: str, options: Mapping[str, Any]) -> Dataset | None:
    """The dataset of a description, of which no example can be read.

    It has the features, facts, statistics and shapes of the one that was described, and transforms
    new examples as that one does.

    Args:
      description: see `describe`.
      name: of the dataset.
      options: with which it was opened.

    Returns:
      None for a dataset of another kind than examples or a text, such as two side by side.

    Raises:
      UsageError: an option is wrong.
    """
    make = _MAKERS.get(description["kind"])
    if make is None:
        return None
    kind: type[Options] = TextOptions if make is _text else ExampleOptions
    if name in registration.names():
        kind = registration.entry(name).options_kind
    given = registration.complete_options(kind, options, name)
    features = {key: _feature(plain) for key, plain in description["features"].items()}
    return make(description, features, name, given)


def parsed(plain: Any) -> Description:
    """What `describe` gave, read back from JSON.

    Raises:
      ValueError: it is damaged.
    """
    try:
        description = msgspec.convert(plain, Description)
        features = {key: _feature(one) for key, one in description["features"].items()}
        _Absent(features, description["arrays"], 1).fetch(np.arange(1), features.keys())
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise ValueError(str(error)) from error
    if not {"train"} <= description["counts"].keys() == description["fingerprints"].keys():
        raise ValueError("its splits are not those of a dataset")
    return description


def _feature(plain: Mapping[str, Any]) -> Feature:
    fields = dict(plain)
    kind = _KINDS[fields.pop("kind")]
    # Of a text the vocabulary is a string, and not a tuple of symbols.
    if isinstance(fields.get("vocabulary"), str):
        return kinds.Tokens(**fields)
    return msgspec.convert(fields, kind)


def _text(
    description: Description, features: Mapping[str, Any], name: str, options: Any
) -> Dataset:
    texts = {
        split: np.zeros(count * options.sequence_length + 1, np.int32)
        for split, count in description["counts"].items()
    }
    vocabulary = features["tokens"].vocabulary
    return DescribedText(name, texts, vocabulary, options, description=description)


def _examples(
    description: Description, features: Mapping[str, Feature], name: str, options: Any
) -> Dataset:
    names = {key: key for key in features}
    splits = {
        split: Split(_Absent(features, description["arrays"], count), np.arange(count), names)
        for split, count in description["counts"].items()
    }
    return DescribedExamples(
        name, features, splits, options, names, splits["train"], description=description
    )


_MAKERS = {"ExampleDataset": _examples, "TextDataset": _text}


@dataclasses.dataclass(frozen=True, eq=False)
class DescribedExamples(ExampleDataset):
    """Examples that are not there: see `described`.

    Attributes:
      description: of those that were.
    """

    description: Description = dataclasses.field(kw_only=True)

    @functools.cached_property
    @override
    def statistics(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        return {
            key: {name: np.asarray(values, np.float32) for name, values in own.items()}
            for key, own in self.description["statistics"].items()
        }

    @functools.cached_property
    @override
    def _curriculum(self) -> None:
        return None

    @override
    def evaluation_batches(
        self, split: str, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[HostBatch]:
        _refuse(self.name)


@dataclasses.dataclass(frozen=True, eq=False)
class DescribedText(TextDataset):
    """A text that is not there: see `described`.

    Attributes:
      description: of the one that was.
    """

    description: Description = dataclasses.field(kw_only=True)

    @override
    def evaluation_batches(
        self, split: str, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[HostBatch]:
        _refuse(self.name)


def _refuse(name: str) -> NoReturn:
    raise UsageError(f"data={name} was not opened: only new inputs can be answered")


class _Absent:
    """A source in which every number is 0, so that shapes can be inferred."""

    streams = False
    fingerprint = ""

    def __init__(self, features: Mapping[str, Feature], arrays: Mapping[str, Array], count: int):
        self.features, self._arrays, self._count = features, arrays, count

    def __len__(self) -> int:
        return self._count

    def prepare(self, names: Names) -> None:
        pass

    def fetch(self, indices: np.ndarray, names: Names) -> Columns:
        return {
            name: {part: self._zeros(name + part, len(indices)) for part in features.parts}
            for name, features in self.features.items()
            if name in names
        }

    def _zeros(self, key: str, count: int) -> np.ndarray:
        array = self._arrays[key]
        return np.zeros((count, *array["shape"]), array["dtype"])
