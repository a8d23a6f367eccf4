"""Random changes of training examples that leave their class alone, in pure JAX.

A change is a function of a random key and an example, its images in 0..1; shapes stay. Moves take
images, segmentations and boxes along (see `moves`). Keys belong to examples, so that the result
does not depend on how a batch is laid out over devices.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax

from dlcore import ranges
from dlcore.data import features as kinds
from dlcore.data.augmentation import geometry, intensity, series
from dlcore.data.augmentation.moves import Example, Warp, Warps, moved, picture_size
from dlcore.data.features import Feature
from dlcore.errors import UsageError
from dlcore.ranges import Natural, Share

Augmentation = Callable[[jax.Array, Example], Example]


@dataclasses.dataclass(frozen=True)
class Kind:
    """An augmentation, and what its strength may be.

    Attributes:
      change: `(key, strength, array) -> array`; of a move `(key, strength, size) -> Move`, or Warp.
      strength: by default.
      takes: the type of strengths, with their range.
      in_pixels: whether a strength is a distance in pixels, less than a picture's sides.
      moves: whether `change` tells how things move; warps in a row sample only once.
      changes: the features that it changes.
      leaves_behind: the features that could not follow it.
      needs_colors: whether `change` takes, as its last argument, the components of the training
        images' colors.
    """

    change: Callable[..., Any]
    strength: float
    takes: Any
    in_pixels: bool = False
    moves: bool = False
    changes: tuple[type[Feature], ...] = (kinds.Image,)
    leaves_behind: tuple[type[Feature], ...] = ()
    needs_colors: bool = False


def _to(most: float) -> Any:
    return Annotated[float, ranges.Range(least=0, most=most)]


_IN_TIME: Any = {
    "takes": Share,
    "changes": tuple(kind for kind in kinds.INPUTS if kind is not kinds.Image),
    "leaves_behind": (kinds.Segmentation, kinds.Boxes),
}
AUGMENTATIONS: dict[str, Kind] = {
    "flip": Kind(geometry.flip, 0.5, Share, moves=True),
    "crop": Kind(geometry.crop, 4, Natural, in_pixels=True, moves=True),
    "flip_vertical": Kind(geometry.flip_vertical, 0.5, Share, moves=True),
    "shift": Kind(geometry.shift, 2, Natural, in_pixels=True, moves=True),
    "rotate": Kind(geometry.rotate, 10, _to(180), moves=True),
    "zoom": Kind(geometry.zoom, 0.1, _to(0.9), moves=True),
    "stretch": Kind(geometry.stretch, 0.1, _to(0.9), moves=True),
    "shear": Kind(geometry.shear, 0.1, Share, moves=True),
    "affine": Kind(geometry.affine, 1, _to(9), moves=True),
    "perspective": Kind(geometry.perspective, 0.1, _to(0.24), moves=True),
    "elastic": Kind(geometry.elastic, 34, _to(1000), moves=True, leaves_behind=(kinds.Boxes,)),
    "brightness": Kind(intensity.brightness, 0.2, Share),
    "contrast": Kind(intensity.contrast, 0.2, Share),
    "noise": Kind(intensity.noise, 0.05, _to(100)),
    "pca_color": Kind(intensity.pca_color, 0.1, _to(100), needs_colors=True),
    "time_shift": Kind(series.time_shift, 0.1, **_IN_TIME),
    "time_mask": Kind(series.time_mask, 0.2, **_IN_TIME),
}


class Choice(NamedTuple):
    """An augmentation by name, and how strong it is."""

    name: str
    strength: float


def parse(text: str) -> tuple[Choice, ...]:
    """Reads `name[:strength]` with commas between them.

    Raises:
      UsageError: an unknown name, or a strength that is no number or out of range.
    """
    return tuple(_choice(item.strip()) for item in text.split(",") if item.strip())


def _choice(item: str) -> Choice:
    name, colon, given = item.partition(":")
    if name not in AUGMENTATIONS:
        raise UsageError(f"unknown augmentation {name!r}: it is one of {', '.join(AUGMENTATIONS)}")
    kind = AUGMENTATIONS[name]
    number = ranges.plain(kind.takes)
    try:
        strength = number(given) if colon else kind.strength
        wanted = ranges.problem(kind.takes, strength)
    except ValueError:
        wanted = "a whole number" if number is int else "a number"
    if wanted:
        raise UsageError(f"augmentation {item!r}: its strength must be {wanted}")
    return Choice(name, strength)


def check(choices: Sequence[Choice], features: Mapping[str, Feature]) -> None:
    """Raises UsageError where a choice changes nothing of such examples, or leaves some behind."""
    for name, _ in choices:
        kind = AUGMENTATIONS[name]
        behind = [key for key, value in features.items() if isinstance(value, kind.leaves_behind)]
        if behind:
            raise UsageError(
                f"augment has {name!r}, which {', '.join(behind)} cannot follow: leave it out"
            )
        if not any(isinstance(feature, kind.changes) for feature in features.values()):
            images = kind.changes == (kinds.Image,)
            wanted = "images" if images else "series"
            raise UsageError(
                f"augment has {name!r}, which is for {wanted}: there are {', '.join(features)}"
            )


def needs_colors(choices: Sequence[Choice]) -> bool:
    """Whether one of them goes by the components of the training images' colors."""
    return any(AUGMENTATIONS[choice.name].needs_colors for choice in choices)


def compose(
    choices: Sequence[Choice],
    features: Mapping[str, Feature],
    statistics: Mapping[str, Mapping[str, Any]] | None = None,
) -> Augmentation:
    """The function `(key, example) -> example` that makes the changes one after the other.

    An image is sampled once for warps that follow each other, so that it is not blurred by each.

    Args:
      choices: what is done, in this order.
      features: what an example holds, by key; keys that an example lacks are left out.
      statistics: `color_components` of each image where a choice needs them: see
        `Dataset.statistics`.

    Raises:
      UsageError: see `check`.
    """
    check(choices, features)

    def augment(key: jax.Array, example: Example) -> Example:
        warps: list[Warp] = []
        for position, (name, strength) in enumerate(choices):
            kind, own_key = AUGMENTATIONS[name], jax.random.fold_in(key, position)
            if kind.moves:
                move = kind.change(own_key, strength, picture_size(example, features))
                if isinstance(move, Warp):
                    warps.append(move)
                else:
                    example, warps = moved(warped(example, warps), features, move), []
            else:
                example, warps = warped(example, warps), []
                example = _changed(example, features, kind, own_key, strength, statistics or {})
        return warped(example, warps)

    def warped(example: Example, warps: list[Warp]) -> Example:
        if not warps:
            return example
        return moved(example, features, Warps(picture_size(example, features), warps))

    return augment


def _changed(
    example: Example,
    features: Mapping[str, Feature],
    kind: Kind,
    key: jax.Array,
    strength: float,
    statistics: Mapping[str, Mapping[str, Any]],
) -> Example:
    """An example in which a change of values has been made."""
    result = dict(example)
    for name, feature in features.items():
        if isinstance(feature, kind.changes) and name in example:
            colors = [statistics[name]["color_components"]] if kind.needs_colors else []
            result[name] = kind.change(key, strength, example[name], *colors)
    return result
