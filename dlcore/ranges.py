"""Which numbers a field may hold: declared with its type, and checked in one place.

    dropout_rate: Rate = 0.0
    hidden: tuple[Positive, ...] = (500,)

No range has NaN or infinity in it, and none a whole number that the devices cannot count to. A
fraction has to be in its range as a device holds it, too: below 1 is nothing that is rounded to 1.
"""

import dataclasses
import math
import numbers
import typing
from typing import Annotated, Any

import numpy as np

from dlcore.errors import UsageError

# What the devices count with.
_LARGEST = 2**31 - 1
# What is smaller, a device takes for 0.
_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers between two bounds.

    Attributes:
      least: the lower bound, if it is one of them.
      above: the lower bound, if it is not.
      most: the upper bound, if it is one of them.
      below: the upper bound, if it is not.
      or_zero: whether 0 is one of them as well.
    """

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    or_zero: bool = False

    def __str__(self) -> str:
        bounds = {
            "at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        words = [f"{word} {bound:.10g}" for word, bound in bounds.items() if math.isfinite(bound)]
        return " and ".join(words) + (", or 0" if self.or_zero else "")

    def has(self, value: float) -> bool:
        """Whether a number is one of them."""
        if self.or_zero and value == 0:
            return True
        # What has no bound has infinity for one, which is not below itself; NaN is below nothing.
        return self.least <= value <= self.most and self.above < value < self.below

    def held(self) -> "Range":
        """The range as a device holds it: its bounds are rounded as the numbers in it are."""
        return Range(
            _held(self.least), _held(self.above), _held(self.most), _held(self.below), self.or_zero
        )


Natural = Annotated[int, Range(least=0)]
Positive = Annotated[int, Range(least=1)]
# Any finite number.
Real = Annotated[float, Range()]
NotNegative = Annotated[float, Range(least=0)]
AboveZero = Annotated[float, Range(above=0)]
# What may be dropped, kept or smoothed of something: never all of it.
Rate = Annotated[float, Range(least=0, below=1)]
Share = Annotated[float, Range(least=0, most=1)]
# Characters that a language model is asked for; it writes them one by one.
Length = Annotated[int, Range(least=1, most=10**7)]


def check(thing: Any, kind: type | None = None) -> None:
    """Raises UsageError where a field of a dataclass is not in its range.

    Where none is declared, a number has to be finite, and a whole one that is at least 1 by default
    is taken for a size: it has to be at least 1.

    Args:
      thing: the dataclass's instance.
      kind: a base, whose fields alone are looked at.
    """
    for field in dataclasses.fields(kind or thing):
        value = getattr(thing, field.name)
        sizes = field.default if isinstance(field.default, tuple) else (field.default,)
        is_size = bool(sizes) and all(_is_whole(size) and size >= 1 for size in sizes)
        if wanted := problem(field.type, value, Range(least=1) if is_size else Range()):
            raise UsageError(f"{field.name}={shown(value)}: it must be {wanted}")


def problem(annotation: Any, value: Any, otherwise: Range = Range()) -> str | None:
    """What a value has to be by its annotated type, in words; None where it is that.

    Args:
      annotation: the type; of a tuple, each number in it is looked at.
      value: a number or a tuple of numbers; anything else is its own affair.
      otherwise: the range, where the type declares none.
    """
    if isinstance(value, tuple):
        inner = (*typing.get_args(annotation), None)[0]
        found = (problem(inner, one, otherwise) for one in value)
        return next(filter(None, found), None)
    declared = declaration(annotation) or Declared(otherwise, whole=_is_whole(value))
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number:
        return None
    if declared.whole and not _is_whole(value):
        return "a whole number"
    words = str(declared.range)
    if value == math.inf and declared.range.most == declared.range.below == math.inf:
        return f"{words} and finite" if words else "a finite number"
    if not declared.range.has(value):
        return words or "a finite number"
    if declared.whole:
        return None if value <= _LARGEST else f"at most {_LARGEST}"
    held = _held(float(value))
    if declared.range.held().has(held):
        return None
    if math.isinf(held):
        words = f"{words} and finite" if words else "finite"
    return f"{words}, as a float32"


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


class Declared(typing.NamedTuple):
    """What a type says of a number.

    Attributes:
      range: which numbers.
      whole: whether only whole ones.
    """

    range: Range
    whole: bool


def declaration(annotation: Any) -> Declared | None:
    """The range that an annotated type declares, if it does."""
    for note in getattr(annotation, "__metadata__", ()):
        if isinstance(note, Range):
            return Declared(note, typing.get_args(annotation)[0] is int)
    return None


def plain(annotation: Any) -> Any:
    """The class that a type without its range, or without what it holds, stands for."""
    bare = typing.get_args(annotation)[0] if declaration(annotation) else annotation
    return typing.get_origin(bare) or bare


def shown(value: Any) -> str:
    """A value as a command line has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _held(value: float) -> float:
    """A number as a device holds it."""
    with np.errstate(over="ignore"):
        held = float(np.float32(value))
    return 0.0 if abs(held) < _TINY else held
