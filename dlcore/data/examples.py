"""Datasets of single examples, each with whatever features it has."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, override

import jax
import numpy as np

from dlcore.data import (
    augmentation,
    curriculum,
    decoding,
    facts,
    pipeline,
    statistics,
    tokenization,
    transforms,
)
from dlcore.data import features as kinds
from dlcore.data.dataset import Dataset, HostBatch, Needs
from dlcore.data.features import Feature, Shape
from dlcore.data.fitting import (
    check_contrast,
    check_distinct,
    check_memory,
    check_options,
    check_squares,
    class_key,
    curriculum_keys,
)
from dlcore.data.needs import described, match
from dlcore.data.options import ExampleOptions, Options, chosen_splits, renaming
from dlcore.data.registration import complete_options
from dlcore.data.sources import Arrays, Source, Split
from dlcore.errors import UsageError

# Streams of a dataset's split seed.
_TEST, _VALIDATION, _FEW, _SAMPLE = range(4)


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleDataset(Dataset):
    """Examples, in any order.

    A host batch holds the features that were asked for with `provide`, as
    `dlcore.data.features` describes them, and `mask` float32 `[batch]`. Before that it holds all
    but texts and others that stay on the host.

    Attributes:
      names: the source's own name of each feature, by its key.
      measured: the training split that statistics and facts are of.
      varies: whether training examples are augmented and cut out at random.
    """

    name: str
    features: Mapping[str, Feature]
    splits: Mapping[str, Split]
    options: ExampleOptions
    names: Mapping[str, str]
    measured: Split
    varies: bool = True

    @override
    def num_examples(self, split: str) -> int:
        return len(self._split(split))

    @override
    def fingerprint(self, split: str) -> str:
        return self._split(split).fingerprint

    @functools.cached_property
    @override
    def facts(self) -> facts.Facts:
        shapes = {
            key: self._shape(feature)
            for key, feature in self.features.items()
            if isinstance(feature, kinds.INPUTS)
        }
        return facts.of_examples(self.features, shapes, self.measured)

    def _shape(self, feature: Any) -> Shape:
        """The shape of an input as the model sees it."""
        shape, side, pad = feature.shape, self.options.crop_size, self.options.pad
        if not isinstance(feature, kinds.Image) or None in shape:
            return shape
        channels = 3 if self.options.color else shape[2]
        if side:
            return (side, side, channels)
        return (shape[0] + 2 * pad, shape[1] + 2 * pad, channels)

    @functools.cached_property
    @override
    def statistics(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        with_colors = augmentation.needs_colors(augmentation.parse(self.options.augment))
        return statistics.measure(self.measured, self.features, with_colors)

    @override
    def provide(self, needs: Needs) -> Self:
        provided = self._select(match(needs, self.features, self.name))
        texts = [
            key
            for key, kind in needs.items()
            if isinstance(provided.features[key], kinds.Text) and kinds.Text not in kind
        ]
        if texts:
            provided = provided._tokenized(texts)
        check_options(self.name, provided.features, self.options)
        check_squares(self.name, provided.features, self.options)
        augmentation.check(augmentation.parse(self.options.augment), provided.features)
        check_memory(self.name, provided.features, 1)
        # What cannot be read shows at once, and not in the middle of a training.
        for split in provided.splits.values():
            split.source.prepare(tuple(split.names.values()))
        for key, feature in provided.features.items():
            if isinstance(feature, kinds.Image) and None not in feature.shape:
                check_contrast(self.name, provided.measured, key)
        return provided

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The dataset with features under other keys: the present key of each new one.

        What had a new key before is left out, unless it is renamed too.

        Raises:
          UsageError: there is no feature under a present key.
        """
        for old in names.values():
            if old not in self.features:
                raise UsageError(
                    f"features has {old!r}: dataset {self.name!r} has {described(self.features)}"
                )
        stays = [key for key in self.features if key not in names and key not in names.values()]
        return self._select({**{key: key for key in stays}, **names}, with_host=False)

    def _select(self, keys: Mapping[str, str], with_host: bool = True) -> Self:
        """Those features only, by the present key of each new one."""
        features = {new: self.features[old] for new, old in keys.items()}
        names = {new: self.names[old] for new, old in keys.items()}

        def narrowed(split: Split) -> Split:
            read = {
                key: name for key, name in names.items() if with_host or not features[key].on_host
            }
            return dataclasses.replace(split, names=read)

        return dataclasses.replace(
            self,
            features=features,
            splits={name: narrowed(split) for name, split in self.splits.items()},
            names=names,
            measured=narrowed(self.measured),
        )

    def _tokenized(self, keys: Iterable[str]) -> Self:
        """The dataset with tokens for those texts, in the vocabulary of the training examples."""
        tokens = {}
        for key in keys:
            where = f"dataset {self.name!r}, {key!r}"
            texts = functools.partial(self.measured.each, key)
            tokens[key] = tokenization.learn(texts, self.options, where)
        by_name = {self.names[key]: own for key, own in tokens.items()}

        made: dict[int, Source] = {}

        def changed(split: Split) -> Split:
            source = split.source
            if id(source) not in made:
                made[id(source)] = tokenization.tokenized(source, by_name)
            return dataclasses.replace(split, source=made[id(source)])

        return dataclasses.replace(
            self,
            features={**self.features, **tokens},
            splits={name: changed(split) for name, split in self.splits.items()},
            measured=changed(self.measured),
        )

    @override
    def transform(self, batch: Mapping[str, Any], key: jax.Array | None, train: bool) -> Any:
        """See `transforms.transform`."""
        return transforms.transform(
            batch,
            key,
            self.features,
            self.options,
            lambda: self.statistics,
            train=train,
            varies=self.varies,
        )

    @override
    def train_batches(
        self, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ) -> pipeline.ShuffledBatches:
        split = self._split("train")
        check_memory(self.name, self.features, min(batch_size, len(split)) // process_count)
        return pipeline.train_batches(
            split, batch_size, seed, process_index, process_count, self._curriculum
        )

    @functools.cached_property
    def _curriculum(self) -> curriculum.Curriculum | None:
        epochs = self.options.curriculum_epochs
        if not epochs:
            return None
        input_key, label_key = curriculum_keys(self.name, self.features, epochs)
        num_classes = len(self.features[label_key].names)  # type: ignore[attr-defined]
        difficulty = curriculum.difficulty(self._split("train"), input_key, label_key, num_classes)
        return curriculum.Curriculum(difficulty, epochs)

    @override
    def evaluation_batches(
        self, split: str, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[HostBatch]:
        return iter(self.ordered_batches(split, batch_size, process_index, process_count))

    def ordered_batches(
        self, split: str, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> pipeline.OrderedBatches:
        """The same as `evaluation_batches`, by step."""
        return pipeline.evaluation_batches(
            self._split(split), batch_size, process_index, process_count
        )

    @override
    def example_batch(self, batch_size: int) -> HostBatch:
        split = self._split("train")
        examples = split.fetch(np.arange(batch_size) % len(split))
        return examples | {"mask": np.ones(batch_size, np.float32)}

    @override
    def limited(self, count: int) -> Self:
        self._check_count(count)
        return self.taking(np.arange(count))

    @override
    def sampled(self, count: int, seed: int) -> Self:
        few = self.taking(self.sample(count, seed))
        check_distinct(self.name, few.splits["train"], self.features)
        return few

    def sample(self, count: int, seed: int) -> np.ndarray:
        """The places in the training split of `sampled`, ascending.

        Raises:
          UsageError: there are not so many examples.
        """
        self._check_count(count)
        split = self._split("train")
        keys = [key for key, own in self.features.items() if isinstance(own, kinds.ClassLabel)]
        labels = np.zeros(len(split))
        if len(keys) == 1:
            labels = split.column(keys[0])
        return pipeline.balanced(labels, count, seed, _SAMPLE)

    def _check_count(self, count: int) -> None:
        available = len(self._split("train"))
        if not 1 <= count <= available:
            raise UsageError(
                f"cannot take {count} of the {available} training examples of {self.name!r}:"
                f" it must be 1 to {available}"
            )

    def taking(self, places: np.ndarray) -> Self:
        """As `limited`, with the training examples at those places."""
        split = self._split("train")
        few = dataclasses.replace(split, indices=split.indices[places])
        return dataclasses.replace(
            self,
            splits={**self.splits, "train": few, "validation": few},
            options=dataclasses.replace(self.options, curriculum_epochs=0),
            varies=False,
        )

    def _split(self, name: str) -> Split:
        if name not in self.splits:
            raise UsageError(
                f"dataset {self.name!r} has no split {name!r}: it has {', '.join(self.splits)}"
            )
        return self.splits[name]


def build(name: str, sources: Mapping[str, Source], options: ExampleOptions) -> ExampleDataset:
    """The dataset over the sources of its own splits: train, and others that it may have.

    A missing test split is carved out of train first, then a missing validation split out of what
    remains.

    Raises:
      UsageError: a split is empty, or an option does not fit.
    """
    indices = {split: np.arange(len(source)) for split, source in sources.items()}
    fractions = (
        ("test", options.test_fraction, _TEST),
        ("validation", options.validation_fraction, _VALIDATION),
    )
    labels = _classes(name, sources["train"], options) if options.stratified else None
    for new, fraction, stream in fractions:
        if new in sources or not fraction:
            continue
        whole, seed = indices["train"], options.split_seed
        if labels is None:
            parts = pipeline.carve(whole, fraction, seed, stream)
        else:
            parts = pipeline.carve_by_class(whole, labels[whole], fraction, seed, stream)
        indices["train"], indices[new] = parts
    for split, chosen in indices.items():
        if not len(chosen):
            sizes = ", ".join(f"{len(source)} in {own}" for own, source in sources.items())
            raise UsageError(
                f"dataset {name!r} ({sizes}) leaves no examples for the {split} split:"
                " it needs more examples or another validation_fraction or test_fraction"
            )
    features = sources["train"].features
    names = {key: key for key in features}
    in_batches = {key: key for key, feature in features.items() if not feature.on_host}
    splits: dict[str, Split] = {
        split: Split(sources.get(split, sources["train"]), indices[split], in_batches)
        for split in ("train", "validation", "test")
        if split in indices
    }
    opened = ExampleDataset(name, features, splits, options, names, splits["train"])
    opened = opened.renamed(renaming(options.features, "features")) if options.features else opened
    check_options(name, opened.features, options)
    return _with_few(opened) if options.examples_per_class else opened


def _classes(name: str, source: Source, options: ExampleOptions) -> np.ndarray:
    """The class of every example of a source, int32 `[n]`."""
    renamed = renaming(options.features, "features")
    known = dict(source.features)
    known |= {new: known[old] for new, old in renamed.items() if old in known}
    key = class_key(name, known, "stratified is True")
    own = renamed.get(key, key)
    source.prepare((own,))
    return Split(source, np.arange(len(source)), {key: own}).column(key)


def _with_few(opened: ExampleDataset) -> ExampleDataset:
    """The dataset with as many training examples of each class as its options say."""
    whole, options = opened.splits["train"], opened.options
    option = f"examples_per_class is {options.examples_per_class}"
    key = class_key(opened.name, opened.features, option)
    positions = pipeline.some_of_each(
        whole.column(key),
        options.examples_per_class,
        options.split_seed,
        _FEW,
    )
    few = dataclasses.replace(whole, indices=whole.indices[positions])
    return dataclasses.replace(opened, splits={**opened.splits, "train": few}, measured=few)


def from_arrays(
    features: Mapping[str, Feature],
    splits: Mapping[str, Mapping[str, np.ndarray]],
    options: Mapping[str, Any] | Options | None = None,
    name: str = "arrays",
) -> ExampleDataset:
    """A dataset of what is in memory.

    Args:
      features: what an example holds, by key.
      splits: the arrays of "train", and of "validation" and "test" where there are any, by key;
        what is missing is carved out of "train"; others are for the option `splits`. The arrays of
        a feature of several parts stand under its key with each part appended: see
        `dlcore.data.features`.
      options: see `ExampleOptions`.
      name: what messages call it.

    Raises:
      UsageError: an array is not what its feature says, a split is empty, or an option does not
        fit.
    """
    given = complete_options(ExampleOptions, options, name)
    sources: dict[str, Source] = {}
    for split, own in chosen_splits(given, splits, name).items():
        where = f"split {own!r} of dataset {name!r}"
        resized = _resized(features, splits[own], given, name)
        sources[split] = Arrays(*resized, where, splits[own] if given.resize else None)
    return build(name, sources, given)


def _resized(
    features: Mapping[str, Feature],
    arrays: Mapping[str, np.ndarray],
    options: ExampleOptions,
    name: str,
) -> tuple[Mapping[str, Feature], Mapping[str, np.ndarray]]:
    """Images and segmentations with sides of `resize` pixels."""
    side = options.resize
    if not side:
        return features, arrays
    sizes: dict[str, Any] = dict(features)
    resized = dict(arrays)
    for key, feature in features.items():
        resize: Any = None
        match feature:
            case kinds.Image():
                resize = functools.partial(decoding.resized, cut_square=options.cut_square)
            case kinds.Segmentation():
                resize = decoding.resized_classes
        if resize and key in arrays:
            shape = (side, side, *sizes[key].shape[2:])
            sizes[key] = dataclasses.replace(sizes[key], shape=shape)
            check_memory(name, {key: sizes[key]}, len(arrays[key]))
            resized[key] = np.stack([resize(image, (side, side)) for image in arrays[key]])
    return sizes, resized
