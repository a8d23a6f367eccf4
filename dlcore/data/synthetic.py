"""Pictures that are drawn instead of read: to try what is made for data that are not at hand.

A class is a coarse pattern of colors, and an example its class's pattern under noise, so that a
network can learn them. Nothing is kept: every example is drawn anew whenever it is asked for.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np

from dlcore.data import examples, fingerprints
from dlcore.data.dataset import Dataset
from dlcore.data.features import ClassLabel, Feature, Image
from dlcore.data.options import ExampleOptions, chosen_splits
from dlcore.data.registration import register
from dlcore.data.sources import Columns, Names
from dlcore.ranges import Natural, Positive, Range

# Rows and columns of a class's pattern.
_CELLS = 4
# Streams of the seed: the patterns, and the noise of each split.
_PATTERNS, *_NOISE = range(4)
_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class SyntheticOptions(ExampleOptions):
    """What is drawn; by default as if it came from ImageNet.

    Attributes:
      image_size: side in pixels of the pictures; where `resize` is set, that is their side.
      channels: of the pictures.
      num_classes: number of classes, all equally frequent.
      num_examples: in the training split; each other split has a tenth of it.
      drawing_seed: seed of patterns and noise.

    Raises:
      UsageError: a value is out of its range.
    """

    image_size: Positive = 224
    channels: Annotated[int, Range(least=1, most=256)] = 3
    num_classes: Annotated[int, Range(least=2, most=10**5)] = 1000
    num_examples: Annotated[int, Range(least=10, most=10**8)] = 10000
    drawing_seed: Natural = 0


class SyntheticExamples:
    """The examples of one split: a `Source` that streams.

    Args:
      options: what is drawn.
      split: train, validation or test.
    """

    streams: ClassVar[bool] = True

    def __init__(self, options: SyntheticOptions, split: str):
        self._options, self._stream = options, _NOISE[_SPLITS.index(split)]
        self._length = options.num_examples // (1 if split == "train" else 10)
        side = options.resize or options.image_size
        self._shape = (side, side, options.channels)
        names = tuple(map(str, range(options.num_classes)))
        self.features: Mapping[str, Feature] = {
            "image": Image(self._shape),
            "label": ClassLabel(names),
        }

    @property
    def fingerprint(self) -> str:
        """See `Source`: of an example, and of what decides on all others."""
        first = self.fetch(np.zeros(1, np.int64), ("image",))["image"][""]
        decisive = (len(self), self._options.num_classes, self._stream)
        return fingerprints.of_words(fingerprints.of_arrays({"image": first}), *decisive)

    def __len__(self) -> int:
        return self._length

    def prepare(self, names: Names) -> None:
        """See `Source`; there is nothing that could be missing."""

    def fetch(self, indices: np.ndarray, names: Names) -> Columns:
        """See `Source`."""
        labels = indices % self._options.num_classes
        found: Columns = {}
        if "image" in names:
            drawn = [self._draw(*numbers) for numbers in zip(indices, labels, strict=True)]
            found["image"] = {"": np.stack(drawn)}
        if "label" in names:
            found["label"] = {"": labels.astype(np.int32)}
        return found

    def _draw(self, index: int, label: int) -> np.ndarray:
        """The mean of the class's pattern and of noise, uint8."""
        cells = (_CELLS, _CELLS, self._options.channels)
        place = np.arange(self._shape[0]) * _CELLS // self._shape[0]
        pattern = self._bytes(cells, _PATTERNS, label).take(place, 0).take(place, 1)
        return pattern // 2 + self._bytes(self._shape, self._stream, index) // 2

    def _bytes(self, shape: tuple[int, ...], *stream: int) -> np.ndarray:
        """Random bytes; of a generator NumPy promises the raw bits for all its versions."""
        generator = np.random.Philox(
            np.random.SeedSequence((self._options.drawing_seed, *map(int, stream)))
        )
        size = int(np.prod(shape))
        return generator.random_raw(-(-size // 8)).view(np.uint8)[:size].reshape(shape)


def synthetic(name: str, options: SyntheticOptions) -> Dataset:
    """Pictures drawn from a seed, of any size and number."""
    splits = chosen_splits(options, _SPLITS, name)
    sources = {split: SyntheticExamples(options, drawn) for split, drawn in splits.items()}
    return examples.build(name, sources, options)


register("synthetic", synthetic, SyntheticOptions)
