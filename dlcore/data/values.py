"""Arrays brought to the form in which a feature is stored, or refused in one line.

Nothing is cast unseen: what the stored form cannot hold is an error that names the example.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from dlcore.data import features as kinds
from dlcore.data.features import Feature
from dlcore.errors import UsageError

# The arrays of one feature, by what is appended to its key in a batch.
Parts = dict[str, np.ndarray]

# Corners that rounding put this far outside of a picture are moved to its border.
_ROUNDING = 1e-3
# Of whole numbers in float32.
_LARGEST_EXACT = 2**24


class _Place:
    """Where values come from, for messages."""

    def __init__(self, where: str, key: str, indices: np.ndarray):
        self._where, self._key, self._indices = where, key, indices

    def refuse(self, message: str) -> NoReturn:
        raise UsageError(f"{self._where}: {self._key!r} {message}")

    def refuse_first(self, bad: np.ndarray, values: np.ndarray, message: str) -> None:
        """Names the first example that is bad, and its value, where there is one."""
        if not bad.any():
            return
        first = np.unravel_index(np.flatnonzero(bad)[0], bad.shape)
        value = np.asarray(values[first]).item()
        raise UsageError(
            f"{self._where}: example {self._indices[first[0]]} has {self._key} {value}: {message}"
        )

    def refuse_infinite(self, values: np.ndarray) -> None:
        """Names the first example that holds no finite number."""
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if not finite.all():
            raise UsageError(
                f"{self._where}: example {self._indices[np.argmin(finite)]} holds NaN or infinity"
                f" in its {self._key}: every number must be finite"
            )


def stored(
    feature: Feature, parts: Mapping[str, np.ndarray], where: str, key: str, indices: np.ndarray
) -> Parts:
    """The arrays of a feature as its batches hold them.

    Args:
      feature: what they are.
      parts: the arrays `[n, ...]`, by what is appended to the key.
      where: dataset and split, as an error names them.
      key: the feature's.
      indices: of the examples in the split, `[n]`.

    Raises:
      UsageError: naming the first bad example's index and value, or what is wrong with all.
    """
    place = _Place(where, key, indices)
    if parts.keys() != set(feature.parts):
        place.refuse(
            f"is {feature.noun}: it needs the arrays"
            f" {', '.join(key + part for part in feature.parts)}"
        )
    shape = getattr(feature, "shape", ())
    if isinstance(feature, kinds.Boxes):
        shape = (feature.most, 4)
    found = parts[""].shape[1:]
    if len(found) != len(shape) or any(
        size not in (None, length) for size, length in zip(shape, found, strict=True)
    ):
        place.refuse(f"has examples of shape {found}: it must be {shape}")
    values = {part: np.asarray(array) for part, array in parts.items()}
    return _STORED[type(feature)](feature, values, place)


def _floats(place: _Place, values: np.ndarray) -> np.ndarray:
    """As float32; numbers only, finite, and whole ones only where float32 holds them exactly."""
    if values.dtype.kind not in "buif":
        place.refuse(f"holds {values.dtype}: it must be numbers")
    with np.errstate(over="ignore"):
        floats = values.astype(np.float32)
    if values.dtype.kind in "iu":
        inexact = (values > _LARGEST_EXACT) | (values < -_LARGEST_EXACT)
        place.refuse_first(
            inexact, values, f"float32 holds whole numbers up to {_LARGEST_EXACT} only"
        )
    place.refuse_infinite(floats)
    return floats


def _whole(place: _Place, values: np.ndarray, noun: str) -> np.ndarray:
    if values.dtype.kind not in "biu":
        place.refuse(f"holds {values.dtype}: {noun} must be whole numbers")
    return values


def _below(place: _Place, values: np.ndarray, count: int, noun: str) -> np.ndarray:
    """Whole numbers in 0..count - 1, int32."""
    whole = _whole(place, values, noun)
    place.refuse_first((whole < 0) | (whole >= count), whole, f"it must be in 0..{count - 1}")
    return whole.astype(np.int32)


def _pixels(_: Any, values: Parts, place: _Place) -> Parts:
    pixels = values[""]
    if pixels.dtype == np.uint8:
        return {"": pixels}
    if pixels.dtype.kind != "f":
        place.refuse(f"holds {pixels.dtype}: pixels must be uint8 in 0..255, or floats")
    return {"": _floats(place, pixels)}


def _steps(allowed: str) -> Callable[[Any, Parts, _Place], Parts]:
    """Of a feature over time, whose steps may stay as they are where their dtype is `allowed`."""

    def convert(feature: Any, values: Parts, place: _Place) -> Parts:
        steps = values[""]
        kept = {"": steps if steps.dtype == allowed else _floats(place, steps)}
        return kept | _lengths(feature, values, place)

    return convert


def _lengths(feature: Any, values: Parts, place: _Place) -> Parts:
    if "_length" not in values:
        return {}
    return {"_length": _below(place, values["_length"], values[""].shape[1] + 1, "lengths")}


def _row(_: Any, values: Parts, place: _Place) -> Parts:
    return {"": _floats(place, values[""])}


def _class(feature: kinds.ClassLabel, values: Parts, place: _Place) -> Parts:
    return {"": _below(place, values[""], len(feature.names), "classes")}


def _tags(_: Any, values: Parts, place: _Place) -> Parts:
    tags = _floats(place, values[""])
    place.refuse_first((tags != 0) & (tags != 1), tags, "it must be 0 or 1")
    return {"": tags}


def _tokens(feature: kinds.Tokens, values: Parts, place: _Place) -> Parts:
    tokens = {"": _below(place, values[""], len(feature.vocabulary), "tokens")}
    return tokens | _lengths(feature, values, place)


def _boxes(feature: kinds.Boxes, values: Parts, place: _Place) -> Parts:
    corners = _floats(place, values[""])
    mask = _floats(place, values["_mask"])
    real = mask[..., None] > 0
    place.refuse_first((mask != 0) & (mask != 1), mask, "a mask must be 0 or 1")
    outside = (corners < -_ROUNDING) | (corners > 1 + _ROUNDING)
    place.refuse_first(real & outside, corners, "a corner must be in 0..1")
    reversed_ = (corners[..., 2:] < corners[..., :2]) & real
    place.refuse_first(reversed_, corners[..., 2:], "ymax and xmax must not be below ymin and xmin")
    labels = np.where(mask > 0, _whole(place, values["_label"], "classes"), 0)
    return {
        "": np.where(real, corners.clip(0, 1), 0).astype(np.float32),
        "_label": _below(place, labels, len(feature.names), "classes"),
        "_mask": mask,
    }


def _segmentation(feature: kinds.Segmentation, values: Parts, place: _Place) -> Parts:
    classes = _whole(place, values[""], "classes")
    count = len(feature.names)
    if count:
        wrong = (classes < 0) | (classes >= count)
        if feature.ignore is not None:
            wrong &= classes != feature.ignore
        place.refuse_first(wrong, classes, f"it must be in 0..{count - 1}")
    return {"": classes if classes.dtype == np.uint8 else classes.astype(np.int32)}


def _objects(_: Any, values: Parts, place: _Place) -> Parts:
    if values[""].dtype != object:
        place.refuse(f"holds {values[''].dtype}: it must be an array of Python objects")
    return values


_STORED: dict[type[Feature], Callable[[Any, Parts, _Place], Parts]] = {
    kinds.Image: _pixels,
    kinds.Images: _pixels,
    kinds.Row: _row,
    kinds.Series: _steps("float32"),
    kinds.Audio: _steps("int16"),
    kinds.Volume: _steps("uint8"),
    kinds.ClassLabel: _class,
    kinds.Tags: _tags,
    kinds.Numbers: _row,
    kinds.Text: _objects,
    kinds.Tokens: _tokens,
    kinds.Boxes: _boxes,
    kinds.Segmentation: _segmentation,
    kinds.Raw: _objects,
}
