"""Datasets of labelled images (or rows of numbers) and what is done to them on the device."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import parallel
from dlcore.data import augmentation, pipeline
from dlcore.data.dataset import Dataset, HostBatch
from dlcore.data.options import Options
from dlcore.data.sources import Arrays, Source, Split, check
from dlcore.errors import UsageError

# The statistics of a dataset that streams come from this many training examples, evenly spaced.
_STATISTICS_EXAMPLES = 1024
_CHUNK = 256
_SPLITS: tuple[str, ...] = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset(Dataset):
    """Images `[height, width, channels]`, or rows `[features]`, each with a label.

    A host batch is `image` (uint8 or float32, as stored), `label` int32 and `mask` float32.
    """

    name: str
    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    statistics: Mapping[str, np.ndarray]
    options: Options
    kind: str = "image"

    @override
    def num_examples(self, split: str) -> int:
        return len(self._split(split))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image as the model sees it."""
        shape, pad = self.splits["train"].source.shape, self.options.pad
        return (shape[0] + 2 * pad, shape[1] + 2 * pad, shape[2]) if pad else shape

    @override
    def transform(self, batch: Mapping[str, Any], key: jax.Array | None, train: bool) -> Any:
        """Pixels to 0..1, then padding, then augmentation where `train`, then normalization.

        Padding and whatever augmentation uncovers are zero before the normalization: background.
        """
        image = batch["image"]
        if image.dtype == jnp.uint8:
            image = image.astype(jnp.float32) / 255
        if pad := self.options.pad:
            image = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        if train and self.options.augment:
            if key is None:
                raise ValueError("a training batch is augmented at random: it needs a key")
            keys = parallel.example_keys(key, image.shape[0])
            image = jax.vmap(augmentation.parse(self.options.augment))(keys, image)
        return {**batch, "image": self._normalize(image)}

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
        return pipeline.train_batches(split, batch_size, seed, process_index, process_count)

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
            options=dataclasses.replace(self.options, augment=""),
        )

    def _split(self, name: str) -> Split:
        if name not in self.splits:
            raise UsageError(
                f"dataset {self.name!r} has no split {name!r}: it has {', '.join(self.splits)}"
            )
        return self.splits[name]


def build(
    name: str, sources: Mapping[str, Source], class_names: tuple[str, ...], options: Options
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
    return ImageDataset(name, splits, class_names, _statistics(splits["train"]), options)


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
    augmentation.parse(options.augment)
    shape = splits["train"].source.shape
    for option in ("resize", "pad", "augment"):
        if len(shape) != 3 and getattr(options, option):
            raise UsageError(
                f"{option} is for images: the examples of dataset {name!r} have shape {shape}"
            )


def _statistics(split: Split) -> dict[str, np.ndarray]:
    """Mean and standard deviation of the inputs, in 0..1 for uint8 ones, float32 `[channels]`."""
    count = min(len(split), _STATISTICS_EXAMPLES) if split.source.streams else len(split)
    positions = np.linspace(0, len(split), count, endpoint=False).astype(np.int64)
    total = squares = np.zeros(split.source.shape)
    for start in range(0, count, _CHUNK):
        image = split.fetch(positions[start : start + _CHUNK])["image"].astype(np.float64)
        # Over the images first: NumPy is slow to sum over all but a short last axis.
        total = total + image.sum(0)
        squares = squares + np.einsum("n...,n...->...", image, image)
    pixels = tuple(range(total.ndim - 1))
    mean = total.mean(pixels) / count
    deviation = np.sqrt(np.maximum(squares.mean(pixels) / count - mean**2, 0))
    scale = 255 if split.source.dtype == np.uint8 else 1
    # An input that never varies, but for rounding, is only centred.
    deviation = np.where(deviation > 1e-6 * np.abs(mean), deviation, scale)
    return {
        "mean": (mean / scale).astype(np.float32),
        "standard_deviation": (deviation / scale).astype(np.float32),
    }
