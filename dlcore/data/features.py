"""What an example holds: an image, a class, boxes, a text, and how each lies in a batch.

A dataset says which of these it has, a task which it needs. The arrays below are those of a host
batch, `[batch, ...]`; pixels and sound become float32 on the device (`Dataset.transform`). A batch
also has `mask`, float32 `[batch]` (of running text `[batch, time]`): 0 for a padded row.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Feature:
    """What an example holds under one key of a batch: one of the kinds below."""

    # What a message calls it.
    noun: ClassVar[str]
    # Whether it stays on the host, and out of a batch unless a task needs it.
    on_host: ClassVar[bool] = False

    @property
    def parts(self) -> tuple[str, ...]:
        """What is appended to its key for each array that it has in a batch."""
        return ("",)

    @property
    def unsettled(self) -> str:
        """Why examples do not fit into one array yet, and what would mend it; empty if they do."""
        return ""


@dataclasses.dataclass(frozen=True)
class Image(Feature):
    """A picture: uint8 in 0..255, or float32 `[batch, height, width, channels]`.

    On the device it is float32; what was uint8 is then divided by 255.

    Attributes:
      shape: height, width (None where images differ) and channels.
    """

    shape: Shape

    noun = "an image"

    @property
    def unsettled(self) -> str:
        """Images of several sizes need `resize`."""
        return _UNEQUAL_IMAGES if None in self.shape else ""


@dataclasses.dataclass(frozen=True)
class Images(Feature):
    """Several pictures, as `Image` has one: `[batch, count, height, width, channels]`.

    They are resized and normalized, but neither padded, cut nor augmented.

    Attributes:
      shape: count, height, width and channels.
    """

    shape: Shape

    noun = "several images"

    @property
    def unsettled(self) -> str:
        """Images of several sizes need `resize`, and their number must be the same."""
        if self.shape and self.shape[0] is None:
            return "examples have different numbers of images, which do not fit into one array"
        return _UNEQUAL_IMAGES if None in self.shape else ""


@dataclasses.dataclass(frozen=True)
class Row(Feature):
    """A row of numbers to look at, as a table has it: float32 `[batch, names]`.

    Attributes:
      names: of its columns.
    """

    names: tuple[str, ...]

    noun = "a row of numbers"

    @property
    def shape(self) -> Shape:
        """As many numbers as there are names."""
        return (len(self.names),)


@dataclasses.dataclass(frozen=True)
class _OverTime(Feature):
    """What goes on for some time; shorter examples are padded where lengths differ.

    Attributes:
      shape: time first (None where lengths differ and `length` is not set), then what a step has.
      padded: whether a batch also has the key with `_length`, int32 `[batch]`: how many steps are
        real; the rest is 0.
    """

    shape: Shape
    padded: bool = dataclasses.field(default=False, kw_only=True)

    @property
    def parts(self) -> tuple[str, ...]:
        """The steps, and how many are real where that differs."""
        return ("", "_length") if self.padded else ("",)

    @property
    def unsettled(self) -> str:
        """Examples of several lengths need `length`."""
        if None in self.shape[1:]:
            return "the steps of its examples differ in shape, which do not fit into one array"
        return _UNEQUAL_LENGTHS if None in self.shape else ""


@dataclasses.dataclass(frozen=True)
class Series(_OverTime):
    """Measurements in their order: float32 `[batch, time]` or `[batch, time, ...]`."""

    noun = "a series"


@dataclasses.dataclass(frozen=True)
class Audio(_OverTime):
    """Sound: int16 or float32 `[batch, time]` or `[batch, time, channels]`.

    On the device it is float32; what was int16 is then divided by 32768.

    Attributes:
      shape: time, and channels where there are several.
      padded: see `Series`.
      rate: samples a second; 0 where it is not known.
    """

    rate: int = 0

    noun = "audio"


@dataclasses.dataclass(frozen=True)
class Volume(_OverTime):
    """A body or a video: uint8 or float32 `[batch, depth, height, width, channels]`.

    On the device it is float32, divided by `scale`. Frames are resized as images are.

    Attributes:
      shape: depth or frames, height, width, channels.
      padded: see `Series`; frames are steps.
      scale: what stands for 1: 255 for the frames of a video.
    """

    scale: float = 1.0

    noun = "a volume"

    @property
    def unsettled(self) -> str:
        """Frames of several sizes need `resize`, videos of several lengths `length`."""
        return _UNEQUAL_IMAGES if None in self.shape[1:] else super().unsettled


@dataclasses.dataclass(frozen=True)
class ClassLabel(Feature):
    """One of several classes: int32 `[batch]`.

    Attributes:
      names: of the classes 0, 1, ...
    """

    names: tuple[str, ...]

    noun = "a class"


@dataclasses.dataclass(frozen=True)
class Tags(Feature):
    """Several yes or no: float32 `[batch, names]` of 0 and 1.

    Attributes:
      names: of the tags.
    """

    names: tuple[str, ...]

    noun = "tags"

    @property
    def shape(self) -> Shape:
        """A number for each name."""
        return (len(self.names),)


@dataclasses.dataclass(frozen=True)
class Numbers(Feature):
    """Numbers to predict: float32 `[batch, names]`.

    Attributes:
      names: of the numbers.
    """

    names: tuple[str, ...]

    noun = "numbers to predict"

    @property
    def shape(self) -> Shape:
        """As many numbers as there are names."""
        return (len(self.names),)


@dataclasses.dataclass(frozen=True)
class Text(Feature):
    """A text: a NumPy array of Python's `str`, dtype object, `[batch]`.

    Strings have no length in common and no place on a device. So they are in a batch only where a
    task needs them (`Dataset.provide`); one that needs `Tokens` gets the text as these. They
    pickle, and so pass through Grain.
    """

    noun = "a text"
    on_host = True


@dataclasses.dataclass(frozen=True)
class Tokens(Feature):
    """Numbered symbols in their order: int32 `[batch, time]`.

    Attributes:
      vocabulary: the symbols 0, 1, ...; a string is its characters.
      length: of a row; None where it is not the same in every batch.
      tokenizer: how a text becomes such tokens, as `dlcore.data.tokenization` has it; empty where
        they are no text's.
      padded: whether a batch also has the key with `_length`, int32 `[batch]`: how many are real.
    """

    vocabulary: Sequence[str]
    length: int | None = None
    tokenizer: str = dataclasses.field(default="", repr=False)
    padded: bool = dataclasses.field(default=False, kw_only=True)

    noun = "tokens"

    @property
    def shape(self) -> Shape:
        """The length of a row."""
        return (self.length,)

    @property
    def parts(self) -> tuple[str, ...]:
        """The tokens, and how many are real where that differs."""
        return ("", "_length") if self.padded else ("",)


@dataclasses.dataclass(frozen=True)
class Boxes(Feature):
    """Things in a picture: rectangles with a class each, padded to the same number.

    Under its key, say `boxes`, float32 `[batch, most, 4]`: `[ymin, xmin, ymax, xmax]`, in shares of
    the picture's height and width, 0..1. Under `boxes_label` their classes, int32 `[batch, most]`.
    Under `boxes_mask` 1 for a box and 0 for padding, float32 `[batch, most]`; padding is 0
    throughout, and may stand between boxes after an augmentation has dropped some.

    Attributes:
      names: of the classes 0, 1, ...
      most: rows for boxes, of every example.
    """

    names: tuple[str, ...]
    most: int

    noun = "boxes"

    @property
    def parts(self) -> tuple[str, ...]:
        """Corners, classes, and which of them are real."""
        return ("", "_label", "_mask")


@dataclasses.dataclass(frozen=True)
class Segmentation(Feature):
    """A class for every pixel of a picture: uint8 or int32 `[batch, height, width]`.

    On the device it is int32.

    Attributes:
      names: of the classes 0, 1, ...; empty where the source does not say.
      shape: height and width (None where they differ).
      ignore: what stands for a pixel without a class; also what an augmentation uncovers. Where it
        is None every pixel has a class, and what is uncovered gets class 0.
    """

    names: tuple[str, ...]
    shape: Shape
    ignore: int | None = None

    noun = "a class for every pixel"

    @property
    def unsettled(self) -> str:
        """Images of several sizes need `resize`."""
        return _UNEQUAL_IMAGES if None in self.shape else ""


@dataclasses.dataclass(frozen=True)
class Raw(Feature):
    """What none of these describes: Python objects in a NumPy array `[batch]`, as they are read.

    It is in a batch only where a task needs it, as `Text`.
    """

    noun = "something of its own form"
    on_host = True


# What a classifier may look at: a dense array of numbers.
INPUTS: tuple[type[Feature], ...] = (Image, Row, Audio, Series, Volume)

_UNEQUAL_IMAGES = "images differ in size: set resize to the side they should all have"
_UNEQUAL_LENGTHS = "examples differ in length: set length to the steps they should all have"
