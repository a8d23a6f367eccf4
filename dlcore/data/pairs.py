"""Two datasets read side by side: parallel ones in step, unpaired ones each in its own order.

`zip:A,B` puts example i of A beside example i of B. `unpaired:A,B` shuffles each by itself; an
epoch is as long as the shorter one, and an evaluation sees each split of both once.

The keys of a batch end in `_a` and `_b`. `mask_a` and `mask_b` are 0 for padded rows of one;
`mask` is 1 where both are real.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self, override

import jax
import numpy as np

from dlcore.data import fingerprints, pipeline
from dlcore.data.dataset import Dataset, HostBatch, Needs
from dlcore.data.examples import ExampleDataset
from dlcore.data.facts import Facts
from dlcore.data.features import INPUTS, ClassLabel, Feature, Text, Tokens
from dlcore.data.needs import match
from dlcore.data.options import ExampleOptions
from dlcore.errors import UsageError

KINDS = ("zip", "unpaired")
_SIDES = ("a", "b")
_LOOKED_AT = (*INPUTS, Text, Tokens)


class Pair(NamedTuple):
    """What a name such as `zip:A,B` says."""

    kind: str
    names: tuple[str, str]


def parse(name: str) -> Pair | None:
    """Reads `zip:A,B` or `unpaired:A,B`; None where a name is neither.

    Raises:
      UsageError: it does not name two datasets.
    """
    kind, colon, rest = name.partition(":")
    if not colon or kind not in KINDS:
        return None
    names = tuple(part.strip() for part in rest.split(","))
    if len(names) != 2 or not all(names):
        raise UsageError(f"dataset {name!r}: {kind} takes two names, as in {kind}:A,B")
    return Pair(kind, (names[0], names[1]))


@dataclasses.dataclass(frozen=True, eq=False)
class PairedBatches:
    """The training batches of one process: see `Dataset.train_batches`."""

    dataset: "PairedDataset"
    first: pipeline.ShuffledBatches
    second: pipeline.ShuffledBatches

    @property
    def batch_size(self) -> int:
        """See `TrainBatches`; of each of the two."""
        return self.first.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """See `TrainBatches`: the shorter one's."""
        return min(self.first.steps_per_epoch, self.second.steps_per_epoch)

    def batch(self, step: int) -> HostBatch:
        """See `TrainBatches`; the longer one goes on through epochs of its own."""
        return self.dataset.joined(self.first.batch(step), self.second.batch(step))

    def start(self, step: int) -> Iterator[HostBatch]:
        """See `TrainBatches`."""
        streams = self.first.streams or self.second.streams
        return pipeline.sequence(self.batch, step, None, streams)


@dataclasses.dataclass(frozen=True, eq=False)
class PairedDataset(Dataset):
    """Two datasets side by side.

    Attributes:
      parts: the two, under "a" and "b".
      in_step: whether example i goes with example i.
      keys: which side and which of its keys each key is.
      options: of both.
    """

    name: str
    parts: Mapping[str, ExampleDataset]
    in_step: bool
    keys: Mapping[str, tuple[str, str]]
    options: ExampleOptions

    @functools.cached_property
    @override
    def features(self) -> Mapping[str, Feature]:  # type: ignore[override]
        return {key: self.parts[side].features[own] for key, (side, own) in self.keys.items()}

    @property
    @override
    def splits(self) -> Mapping[str, range]:  # type: ignore[override]
        first, second = (self.parts[side].splits for side in _SIDES)
        return {split: range(self.num_examples(split)) for split in first if split in second}

    @functools.cached_property
    @override
    def facts(self) -> Facts:
        """Those of each with `_a` and `_b`; and without, where only one has it or both agree."""
        first, second = (self.parts[side].facts for side in _SIDES)
        found: dict[str, Callable[[], Any]] = {}
        for side, own, other in (("a", first, second), ("b", second, first)):
            for name in own:
                look = functools.partial(own.__getitem__, name)
                found[f"{name}_{side}"] = look
                if name not in other or (name != "frequencies" and own[name] == other[name]):
                    found[name] = look
        return Facts({}, found)

    @functools.cached_property
    @override
    def statistics(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        return {
            key: self.parts[side].statistics[own]
            for key, (side, own) in self.keys.items()
            if own in self.parts[side].statistics
        }

    @override
    def provide(self, needs: Needs) -> Self:
        found = match(needs, self.features, self.name)
        keys = {key: self.keys[old] for key, old in found.items()}
        parts = {}
        for side, dataset in self.parts.items():
            own = {old: needs[key] for key, (of, old) in keys.items() if of == side}
            if not any(isinstance(dataset.features[old], _LOOKED_AT) for old in own):
                dataset = dataclasses.replace(dataset, options=_for_labels(self.options))
            parts[side] = dataset.provide(own)
        return dataclasses.replace(self, parts=parts, keys=keys)

    @override
    def num_examples(self, split: str) -> int:
        """Of the one that has more; in training of the one that has fewer, as an epoch has."""
        counts = [self.parts[side].num_examples(split) for side in _SIDES]
        return min(counts) if split == "train" else max(counts)

    @override
    def fingerprint(self, split: str) -> str:
        return fingerprints.of_words(*(self.parts[side].fingerprint(split) for side in _SIDES))

    def joined(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
        """The batches of both as one, under its own keys."""
        sides = dict(zip(_SIDES, (first, second), strict=True))
        batch = {
            key + part: sides[side][own + part]
            for key, (side, own) in self.keys.items()
            for part in self.features[key].parts
            if own + part in sides[side]
        }
        masks = {f"mask_{side}": sides[side]["mask"] for side in _SIDES}
        return {**batch, **masks, "mask": first["mask"] * second["mask"]}

    @override
    def transform(self, batch: Mapping[str, Any], key: jax.Array | None, train: bool) -> Any:
        """Each side's by itself: pictures in step move alike, unpaired ones do not."""
        result = dict(batch)
        for number, side in enumerate(_SIDES):
            names = {
                own + part: key_ + part
                for key_, (of, own) in self.keys.items()
                if of == side
                for part in self.features[key_].parts
            }
            own_key = key
            if key is not None and not self.in_step:
                own_key = jax.random.fold_in(key, number)
            present = {own: batch[name] for own, name in names.items() if name in batch}
            changed = self.parts[side].transform(present, own_key, train)
            result |= {names.get(own, f"{own}_{side}"): array for own, array in changed.items()}
        return result

    @override
    def train_batches(
        self, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ) -> PairedBatches:
        # Unpaired sets that happen to be equally long must not have the same order.
        seeds = (seed, seed if self.in_step else pipeline.other_seed(seed))
        first, second = (
            self.parts[side].train_batches(batch_size, own_seed, process_index, process_count)
            for side, own_seed in zip(_SIDES, seeds, strict=True)
        )
        return PairedBatches(self, first, second)

    @override
    def evaluation_batches(
        self, split: str, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[HostBatch]:
        first, second = (
            self.parts[side].ordered_batches(split, batch_size, process_index, process_count)
            for side in _SIDES
        )

        def batch(step: int) -> HostBatch:
            return self.joined(first.batch(step), second.batch(step))

        streams = first.split.source.streams or second.split.source.streams
        return pipeline.sequence(batch, 0, max(len(first), len(second)), streams)

    @override
    def example_batch(self, batch_size: int) -> HostBatch:
        return self.joined(*(self.parts[side].example_batch(batch_size) for side in _SIDES))

    @override
    def limited(self, count: int) -> Self:
        parts = {side: self.parts[side].limited(count) for side in _SIDES}
        return dataclasses.replace(self, parts=parts)

    @override
    def sampled(self, count: int, seed: int) -> Self:
        if not self.in_step:
            parts = {side: self.parts[side].sampled(count, seed) for side in _SIDES}
            return dataclasses.replace(self, parts=parts)
        # Of the classes of the side that has some.
        has_class = [
            part
            for part in self.parts.values()
            if any(isinstance(feature, ClassLabel) for feature in part.features.values())
        ]
        places = (has_class or [self.parts["a"]])[0].sample(count, seed)
        parts = {side: self.parts[side].taking(places) for side in _SIDES}
        return dataclasses.replace(self, parts=parts)


def build(name: str, kind: str, first: Dataset, second: Dataset) -> PairedDataset:
    """The pair of two datasets of examples.

    Args:
      name: of the pair.
      kind: zip or unpaired.
      first: gets `_a`.
      second: gets `_b`.

    Raises:
      UsageError: one is a text, an option does not go with a pair, or lengths differ in a zip.
    """
    for part in (first, second):
        if not isinstance(part, ExampleDataset):
            raise UsageError(f"dataset {name!r}: {part.name!r} holds no examples to read in pairs")
        for option in ("curriculum_epochs", "examples_per_class"):
            if getattr(part.options, option):
                raise UsageError(f"{option} does not go with a pair such as {name!r}")
    assert isinstance(first, ExampleDataset)
    assert isinstance(second, ExampleDataset)
    parts = {"a": first, "b": second}
    sizes = [{split: len(of) for split, of in part.splits.items()} for part in parts.values()]
    if kind == "zip" and sizes[0] != sizes[1]:
        raise UsageError(
            f"dataset {name!r}: zip needs the same number of examples in each split: there are"
            f" {_listed(sizes[0])} and {_listed(sizes[1])}"
        )
    keys = {f"{key}_{side}": (side, key) for side, part in parts.items() for key in part.features}
    return PairedDataset(name, parts, kind == "zip", keys, first.options)


def _for_labels(options: ExampleOptions) -> ExampleOptions:
    """The options of a side that has no input: what is done to inputs does not concern it."""
    return dataclasses.replace(
        options,
        resize=0,
        cut_square=False,
        color=False,
        length=0,
        vocabulary_size=0,
        min_count=1,
        pad=0,
        augment="",
        crop_size=0,
        crop_scales=(),
        crop_area=0.0,
        test_crops=1,
    )


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} in {split}" for split, count in sizes.items())
