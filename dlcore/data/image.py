"""Datasets of labelled images (or rows of numbers) and what is done to them on the device."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import parallel
from dlcore.data import augmentation, crops, curriculum, pipeline, statistics
from dlcore.data.dataset import Dataset, HostBatch
from dlcore.data.options import Options
from dlcore.data.sources import Arrays, Source, Split, check
from dlcore.errors import UsageError

_SPLITS: tuple[str, ...] = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset(Dataset):
    """Images `[height, width, channels]`, or rows `[features]`, each with a label.

    A host batch is `image` (uint8 or float32, as stored), `label` and `mask` float32. A label is a
    class, int32, where `kind` is "image"; `[outputs]` numbers, float32, where it is "numbers"; and
    such of 0 and 1 where it is "tags".

    Attributes:
      varies: whether training examples are augmented and cut out at random.
    """

    name: str
    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    statistics: Mapping[str, np.ndarray]
    options: Options
    kind: str = "image"
    varies: bool = True

    @override
    def num_examples(self, split: str) -> int:
        return len(self._split(split))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image as the model sees it."""
        shape, options = self.splits["train"].source.shape, self.options
        if options.crop_size:
            return (options.crop_size, options.crop_size, shape[2])
        pad = options.pad
        return (shape[0] + 2 * pad, shape[1] + 2 * pad, shape[2]) if pad else shape

    @override
    def transform(self, batch: Mapping[str, Any], key: jax.Array | None, train: bool) -> Any:
        """Pixels to 0..1, then padding, augmentation where `train`, cutting out, normalization.

        Padding and whatever augmentation uncovers are zero before the normalization: background.
        Outside training, a dataset of several `test_crops` adds all of them: `views`, float32
        `[batch, crops, height, width, channels]`, beside the one in the centre.
        """
        image, options = batch["image"], self.options
        if image.dtype == jnp.uint8:
            image = image.astype(jnp.float32) / 255
        if pad := options.pad:
            image = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        if train and self.varies:
            image = self._vary(image, key)
        elif options.crop_size:
            if options.test_crops > 1 and not train:
                views = crops.views(image, options.crop_size, options.test_crops)
                batch = {**batch, "views": self._normalize(views)}
            image = crops.centre(image, options.crop_size)
        return {**batch, "image": self._normalize(image)}

    def _vary(self, image: jax.Array, key: jax.Array | None) -> jax.Array:
        choices, side = augmentation.parse(self.options.augment), self.options.crop_size
        if not choices and not side:
            return image
        if key is None:
            raise ValueError("a training batch is changed at random: it needs a key")
        change = augmentation.compose(choices, self.statistics.get("colour_components"))

        def vary(key: jax.Array, image: jax.Array) -> jax.Array:
            image = change(key, image)
            # The augmentations' keys have the numbers before.
            last_key = jax.random.fold_in(key, len(choices))
            return crops.random(last_key, image, side) if side else image

        return jax.vmap(vary)(parallel.example_keys(key, image.shape[0]), image)

    def _normalize(self, image: jax.Array) -> jax.Array:
        match self.options.normalize:
            case "mean_std":
                channels = (1,) * (image.ndim - 1) + (-1,)
                mean = self.statistics["mean"].reshape(channels)
                return (image - mean) / self.statistics["standard_deviation"].reshape(channels)
            case "symmetric":
                return image * 2 - 1
            case "lenet":
                return image * 1.275 - 0.1
            case _:
                return image

    @override
    def train_batches(
        self, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ) -> pipeline.ShuffledBatches:
        split = self._split("train")
        return pipeline.train_batches(
            split, batch_size, seed, process_index, process_count, self._curriculum
        )

    @functools.cached_property
    def _curriculum(self) -> curriculum.Curriculum | None:
        epochs = self.options.curriculum_epochs
        if not epochs:
            return None
        difficulty = curriculum.difficulty(self._split("train"), len(self.class_names))
        return curriculum.Curriculum(difficulty, epochs)

    @override
    def evaluation_batches(
        self, split: str, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[HostBatch]:
        return pipeline.evaluation_batches(
            self._split(split), batch_size, process_index, process_count
        )

    @override
    def example_batch(self, batch_size: int) -> HostBatch:
        split = self._split("train")
        examples = split.fetch(np.arange(batch_size) % len(split))
        return examples | {"mask": np.ones(batch_size, np.float32)}

    @override
    def limited(self, count: int) -> "ImageDataset":
        split = self._split("train")
        if not 1 <= count <= len(split):
            raise UsageError(
                f"cannot take {count} of the {len(split)} training examples of {self.name!r}:"
                f" it must be 1 to {len(split)}"
            )
        few = Split(split.source, split.indices[:count])
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


def build(
    name: str,
    sources: Mapping[str, Source],
    class_names: tuple[str, ...],
    options: Options,
    kind: str = "image",
) -> ImageDataset:
    """The dataset over the sources of its own splits: train, and others that it may have.

    A missing test split is carved out of train first, then a missing validation split out of what
    remains.

    Raises:
      UsageError: an example is bad, a split is empty, or an option does not fit.
    """
    indices = {split: np.arange(len(source)) for split, source in sources.items()}
    seed = options.split_seed
    if "test" not in sources:
        indices["train"], indices["test"] = pipeline.carve(
            indices["train"], options.test_fraction, seed, 0
        )
    if "validation" not in sources and options.validation_fraction:
        indices["train"], indices["validation"] = pipeline.carve(
            indices["train"], options.validation_fraction, seed, 1
        )
    splits = {
        split: Split(sources.get(split, sources["train"]), indices[split])
        for split in _SPLITS
        if split in indices
    }
    _check(name, sources, splits, class_names, options)
    if options.curriculum_epochs and (kind != "image" or len(class_names) < 2):
        raise UsageError(
            f"curriculum_epochs is {options.curriculum_epochs}: it needs classes, at least two, to"
            f" tell which examples of dataset {name!r} are difficult"
        )
    chosen = augmentation.parse(options.augment)
    measured = statistics.mean_and_deviation(splits["train"])
    if any(augmentation.AUGMENTATIONS[choice.name].needs_colours for choice in chosen):
        measured["colour_components"] = statistics.colour_components(splits["train"])
    return ImageDataset(name, splits, class_names, measured, options, kind)


def _check(
    name: str,
    sources: Mapping[str, Source],
    splits: Mapping[str, Split],
    class_names: tuple[str, ...],
    options: Options,
) -> None:
    for split, source in sources.items():
        if isinstance(source, Arrays):
            where = f"split {split!r} of dataset {name!r}"
            check(where, np.arange(len(source)), source.images, source.labels, len(class_names))
    for split, examples in splits.items():
        if not len(examples):
            sizes = ", ".join(f"{len(source)} in {own}" for own, source in sources.items())
            raise UsageError(
                f"dataset {name!r} ({sizes}) leaves no examples for the {split} split:"
                " it needs more examples or another validation_fraction or test_fraction"
            )
    _check_shape(name, splits["train"].source.shape, options)


def _check_shape(name: str, shape: tuple[int, ...], options: Options) -> None:
    """Refuses what only images have where the examples are none, and a square that is too large."""
    chosen = augmentation.parse(options.augment)
    for_images = {
        "resize": options.resize,
        "pad": options.pad,
        "crop_size": options.crop_size,
        "augment": any(augmentation.AUGMENTATIONS[choice.name].for_images for choice in chosen),
    }
    for option, given in for_images.items():
        if len(shape) != 3 and given:
            raise UsageError(
                f"{option} is for images: the examples of dataset {name!r} have shape {shape}"
            )
    if options.crop_size and options.crop_size > min(shape[:2]) + 2 * options.pad:
        raise UsageError(
            f"crop_size is {options.crop_size}: the images of dataset {name!r} have"
            f" {shape[0]} x {shape[1]} pixels and a pad of {options.pad}"
        )
