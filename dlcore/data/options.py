"""What a recipe says about its data: the launcher's `--data.*` flags."""

import dataclasses

from dlcore.data import augmentation, crops
from dlcore.errors import UsageError

# Those that decide which example is in which split.
SPLIT_OPTIONS = ("validation_fraction", "test_fraction", "split_seed")
NORMALIZATIONS = ("mean_std", "symmetric", "lenet", "none")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a dataset is split, prepared and augmented.

    Attributes:
      validation_fraction: share of the training examples set aside for validation where the
        dataset has no validation split of its own; 0 sets none aside.
      test_fraction: share of all examples set aside for the test where the dataset has no test
        split of its own; the validation share is then of what remains.
      split_seed: seed of the random choice of those examples.
      resize: side in pixels to which images are resized, bilinearly; 0 leaves them as they are.
      pad: background pixels (zeros, before normalization) added on each side of an image.
      normalize: what is done to pixels in 0..1: mean_std subtracts the training images' mean and
        divides by their standard deviation, channel by channel; symmetric maps to -1..1; lenet
        maps to -0.1..1.175 (LeCun et al. 1998); none leaves them.
      augment: random changes of training examples, in this order, with commas between them, each a
        name or name:strength. The names with their defaults are flip:0.5 and flip_vertical:0.5 (the
        probability), crop:4 (pixels padded before the size is cut out), shift:2 (pixels), rotate:10
        (degrees), zoom:0.1, stretch:0.1 (as zoom, height and width each on its own), shear:0.1,
        affine:1 (times the usual mixture), perspective:0.1 (of the sides, each corner), elastic:34
        (for 28 pixels), brightness:0.2, contrast:0.2, noise:0.05 (standard deviation),
        pca_colour:0.1 (AlexNet's colour jitter), and for series time_shift:0.1 and time_mask:0.2
        (of the length).
      crop_size: side in pixels of the square cut out of each image, after padding and augmentation:
        anywhere when training, in the centre otherwise; 0 leaves images whole.
      test_crops: squares that a classifier looks at outside training, its predictions averaged: 1
        is the centre, 5 the four corners and the centre, 10 these and their mirror images.
      curriculum_epochs: epochs in which the hardest examples, fewer each time, are left out of the
        training; 0 has all from the start. Hard is what is far from its class's mean and near to
        another one's.
      sequence_length: characters in each row of a training batch of text.

    Raises:
      UsageError: a value is out of its range.
    """

    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    resize: int = 0
    pad: int = 0
    normalize: str = "mean_std"
    augment: str = ""
    crop_size: int = 0
    test_crops: int = 1
    curriculum_epochs: int = 0
    sequence_length: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise UsageError(
                f"validation_fraction is {self.validation_fraction}: it must be in [0, 1)"
            )
        if not 0 < self.test_fraction < 1:
            raise UsageError(f"test_fraction is {self.test_fraction}: it must be in (0, 1)")
        for name in ("split_seed", "resize", "pad", "crop_size", "curriculum_epochs"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}: it must not be negative")
        if self.sequence_length < 1:
            raise UsageError(f"sequence_length is {self.sequence_length}: it must be at least 1")
        if self.normalize not in NORMALIZATIONS:
            raise UsageError(
                f"unknown normalize {self.normalize!r}: it is one of {', '.join(NORMALIZATIONS)}"
            )
        augmentation.parse(self.augment)
        if self.test_crops not in crops.TEST_CROPS:
            raise UsageError(f"test_crops is {self.test_crops}: it must be 1, 5 or 10")
        if self.test_crops > 1 and not self.crop_size:
            raise UsageError(f"test_crops is {self.test_crops}: it needs a crop_size")
