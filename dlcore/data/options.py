"""What a recipe says about its data: the launcher's `--data.*` flags, by the kind of the source."""

import dataclasses
from collections.abc import Iterable
from typing import Annotated

from dlcore import ranges
from dlcore.data import augmentation, crops
from dlcore.errors import UsageError
from dlcore.ranges import Natural, Positive, Range, Rate, Share

_SPLITS = ("train", "validation", "test")
# What else a source may call a split.
_ALSO = {"val": "validation", "valid": "validation"}
NORMALIZATIONS = ("mean_std", "symmetric", "lenet", "none")
TOKENIZATIONS = ("word", "character", "subword")


@dataclasses.dataclass(frozen=True)
class Options:
    """Which example is in which split.

    Attributes:
      splits: splits of the source that are used under another name, as in
        "train:small1 test:small2"; empty for those that it calls train, validation (or val, valid)
        and test.
      validation_fraction: share of the training examples set aside for validation where the
        dataset has no validation split of its own; 0 sets none aside.
      test_fraction: share of all examples set aside for the test where the dataset has no test
        split of its own; the validation share is then of what remains.
      split_seed: seed of the random choice of those examples.

    Raises:
      UsageError: a value is out of its range.
    """

    splits: str = ""
    validation_fraction: Rate = 0.1
    test_fraction: Annotated[float, Range(above=0, below=1)] = 0.2
    split_seed: Natural = 0

    def __post_init__(self) -> None:
        ranges.check(self)
        for new in renaming(self.splits, "splits"):
            if new not in _SPLITS:
                raise UsageError(
                    f"splits has {new!r}: a split is used as train, validation or test"
                )


@dataclasses.dataclass(frozen=True)
class ExampleOptions(Options):
    """How single examples are prepared and augmented.

    Attributes:
      stratified: whether the examples that are set aside for validation and test have, to within
        one, the same share of each class; otherwise they are drawn from all at once, and a small
        split may lack a class.
      features: features that are used under another name, as in "image:photo label:species"; needed
        where several of a dataset's features would do for a task.
      examples_per_class: training examples of each class that are kept, chosen by split_seed; all
        of a class that has fewer. Other splits stay whole; 0 keeps all.
      resize: side in pixels to which images are resized, bilinearly; 0 leaves them as they are.
      cut_square: whether the central square of an image is all that is resized, so that nothing is
        stretched: then `resize` is the shorter side's.
      color: whether gray images get three equal channels, for a network of color images.
      length: steps that series, audio, videos and texts of different lengths are cut or padded to,
        with zeros; 0 leaves them as they are, and texts as long as the longest training text.
      tokenization: how a text is divided for a task that needs tokens: word (runs of letters and
        digits, and of other signs), character or subword (byte-pair encoding, Sennrich et al.
        2016).
      lowercase: whether a text is in lower case before it is divided.
      vocabulary_size: symbols that are told apart, the most frequent ones of the training texts,
        and one that stands for all others; 0 for as many as there are.
      min_count: how often a symbol occurs in the training texts to be told apart; of pieces, two
        neighbors to be joined.
      max_boxes: boxes that an example has room for.
      pad: background pixels (zeros, before normalization) added on each side of an image.
      normalize: what is done to numbers on the device, images being in 0..1: mean_std subtracts the
        training examples' mean and divides by their standard deviation, channel by channel;
        symmetric maps 0..1 to -1..1; lenet to -0.1..1.175 (LeCun et al. 1998); none leaves them.
      augment: random changes of training examples, in this order, with commas between them, each a
        name or name:strength. The names with their defaults are flip:0.5 and flip_vertical:0.5 (the
        probability), crop:4 (pixels padded before the size is cut out), shift:2 (pixels), rotate:10
        (degrees), zoom:0.1, stretch:0.1 (as zoom, height and width each on its own), shear:0.1,
        affine:1 (times the usual mixture), perspective:0.1 (of the sides, each corner), elastic:34
        (for 28 pixels), brightness:0.2, contrast:0.2, noise:0.05 (standard deviation),
        pca_color:0.1 (AlexNet's color jitter), and for series, audio and videos time_shift:0.1 and
        time_mask:0.2 (of the length). Pixels are whole, and fewer than an image's sides have.
      crop_size: side in pixels of the square cut out of each image, after padding and augmentation:
        anywhere when training, in the center otherwise; 0 leaves images whole.
      crop_scales: the least and the largest number of pixels to which, when training, an image's
        shorter side is resized before the square is cut out (Simonyan and Zisserman 2015, section
        3.1); empty leaves it.
      crop_area: when training, a rectangle of this share of the image's area, or any larger one, is
        resized to the square (Szegedy et al. 2015, section 6: 0.08); 0 for squares.
      test_crops: squares that a classifier looks at outside training, its predictions averaged: 1
        is the center, 5 the four corners and the center, 10 these and their mirror images.
      curriculum_epochs: epochs in which the hardest examples, fewer each time, are left out of the
        training; 0 has all from the start. Hard is what is far from its class's mean and near to
        another one's.

    Raises:
      UsageError: a value is out of its range.
    """

    stratified: bool = False
    features: str = ""
    examples_per_class: Natural = 0
    resize: Natural = 0
    cut_square: bool = False
    color: bool = False
    length: Natural = 0
    tokenization: str = "word"
    lowercase: bool = True
    vocabulary_size: Natural = 0
    min_count: Positive = 1
    max_boxes: Positive = 100
    pad: Natural = 0
    normalize: str = "mean_std"
    augment: str = ""
    crop_size: Natural = 0
    crop_scales: tuple[Positive, ...] = ()
    crop_area: Share = 0.0
    test_crops: Positive = 1
    curriculum_epochs: Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        renaming(self.features, "features")
        if self.normalize not in NORMALIZATIONS:
            raise UsageError(
                f"unknown normalize {self.normalize!r}: it is one of {', '.join(NORMALIZATIONS)}"
            )
        if self.tokenization not in TOKENIZATIONS:
            raise UsageError(
                f"unknown tokenization {self.tokenization!r}: it is one of"
                f" {', '.join(TOKENIZATIONS)}"
            )
        augmentation.parse(self.augment)
        if self.test_crops not in crops.TEST_CROPS:
            raise UsageError(f"test_crops is {self.test_crops}: it must be 1, 5 or 10")
        if self.cut_square and not self.resize:
            raise UsageError("cut_square is True: it is for images that resize gives a size")
        if self.test_crops > 1 and not self.crop_size:
            raise UsageError(f"test_crops is {self.test_crops}: it needs a crop_size")
        self._check_random_crops()

    def _check_random_crops(self) -> None:
        scales = self.crop_scales
        if scales and (len(scales) != 2 or not 0 < self.crop_size <= scales[0] <= scales[1]):
            raise UsageError(
                f"crop_scales is {','.join(map(str, scales))}: it is two numbers of pixels, the"
                f" smaller one first, of which none is below the crop_size, {self.crop_size or 1}"
                " or more"
            )
        if self.crop_area and (scales or not self.crop_size):
            raise UsageError(
                f"crop_area is {self.crop_area}: it needs a crop_size, and no crop_scales"
            )


@dataclasses.dataclass(frozen=True)
class TextOptions(Options):
    """How running text is split and cut into rows; what is set aside is its end, for any seed.

    Attributes:
      sequence_length: characters in each row of a training batch.

    Raises:
      UsageError: a value is out of its range.
    """

    sequence_length: Positive = 64


def renaming(text: str, option: str) -> dict[str, str]:
    """Reads `new:old` with spaces between them; the old name of each new one.

    Raises:
      UsageError: a word is not of this form, or names come twice.
    """
    words = [word.partition(":") for word in text.split()]
    for new, _, old in words:
        if not new or not old:
            raise UsageError(f"{option} is {text!r}: it takes words such as new:old")
    names = {new: old for new, _, old in words}
    if len(set(names)) < len(words) or len(set(names.values())) < len(words):
        raise UsageError(f"{option} is {text!r}: it has a name twice")
    return names


def is_split(name: str) -> bool:
    """Whether a source's split of that name is used without being asked for."""
    return name in (*_SPLITS, *_ALSO)


def chosen_splits(options: Options, there: Iterable[str], name: str) -> dict[str, str]:
    """The source's own name of each split that is used, "train" among them.

    Args:
      options: of the dataset.
      there: the source's own splits.
      name: of the dataset.

    Raises:
      UsageError: there is no split to learn from, or none of a name that `splits` has.
    """
    own = list(there)
    named = renaming(options.splits, "splits")
    for old in named.values():
        if old not in own:
            raise UsageError(
                f"splits has {old!r}: dataset {name!r} has the splits {', '.join(own)}"
            )
    same = {split: split for split in _SPLITS if split in own and split not in named.values()}
    others = {old: new for old, new in _ALSO.items() if old in own and old not in named.values()}
    for old, new in others.items():
        if new in named:
            continue
        if new in same:
            raise UsageError(
                f"dataset {name!r} has the splits {same[new]} and {old}, which are both {new}: set"
                f' splits, as in splits="{new}:{old}"'
            )
        same[new] = old
    chosen = {**same, **named}
    if "train" not in chosen:
        raise UsageError(
            f"dataset {name!r} has no split 'train' to learn from: it has {', '.join(own)}; set"
            f' splits, as in splits="train:{own[0]}"'
        )
    return {split: chosen[split] for split in _SPLITS if split in chosen}
