"""Random changes of training examples that leave their class alone, in pure JAX.

Each is a function of a random key, a strength (0 changes nothing) and one example: an image
`[height, width, channels]` in 0..1, or a series `[time, ...]`; the shape stays. What a movement
uncovers is background, 0. Keys belong to examples, so that the result does not depend on how a
batch is laid out over devices.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from dlcore.data.augmentation import geometry, intensity, series
from dlcore.errors import UsageError

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Kind:
    """An augmentation, and what its strength may be.

    Attributes:
      change: `(key, strength, example) -> example`; of a warp `(key, strength, size) -> Warp`.
      strength: by default.
      limit: the largest strength.
      whole: whether strengths are whole numbers.
      is_warp: whether `change` tells where pixels come from; warps in a row sample only once.
      for_images: whether examples must be images.
      needs_colours: whether `change` takes, as its last argument, the components of the training
        images' colours.
    """

    change: Callable[..., Any]
    strength: float
    limit: float = math.inf
    whole: bool = False
    is_warp: bool = False
    for_images: bool = True
    needs_colours: bool = False


AUGMENTATIONS: dict[str, Kind] = {
    "flip": Kind(geometry.flip, 0.5, limit=1),
    "crop": Kind(geometry.crop, 4, whole=True),
    "flip_vertical": Kind(geometry.flip_vertical, 0.5, limit=1),
    "shift": Kind(geometry.shift, 2, is_warp=True),
    "rotate": Kind(geometry.rotate, 10, limit=180, is_warp=True),
    "zoom": Kind(geometry.zoom, 0.1, limit=0.9, is_warp=True),
    "stretch": Kind(geometry.stretch, 0.1, limit=0.9, is_warp=True),
    "shear": Kind(geometry.shear, 0.1, is_warp=True),
    "affine": Kind(geometry.affine, 1, limit=9, is_warp=True),
    "perspective": Kind(geometry.perspective, 0.1, limit=0.24, is_warp=True),
    "elastic": Kind(geometry.elastic, 34),
    "brightness": Kind(intensity.brightness, 0.2),
    "contrast": Kind(intensity.contrast, 0.2, limit=1),
    "noise": Kind(intensity.noise, 0.05),
    "pca_colour": Kind(intensity.pca_colour, 0.1, needs_colours=True),
    "time_shift": Kind(series.time_shift, 0.1, limit=1, for_images=False),
    "time_mask": Kind(series.time_mask, 0.2, limit=1, for_images=False),
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
    try:
        strength = float(given if colon else kind.strength)
    except ValueError:
        strength = math.nan
    whole = not kind.whole or strength.is_integer()
    if not (0 <= strength <= kind.limit and math.isfinite(strength) and whole):
        number = "whole number" if kind.whole else "number"
        most = f" and at most {kind.limit:g}" if math.isfinite(kind.limit) else ""
        raise UsageError(f"augmentation {item!r}: its strength must be a {number}, 0 or more{most}")
    return Choice(name, strength)


def compose(choices: Sequence[Choice], colour_components: Any = None) -> Augmentation:
    """The function `(key, example) -> example` that makes the changes one after the other.

    The image is sampled once for warps that follow each other, so that it is not blurred by each.

    Args:
      choices: what is done, in this order.
      colour_components: `[channels, channels]`, see `statistics.colour_components`, where a choice
        needs them.
    """

    def augment(key: jax.Array, example: jax.Array) -> jax.Array:
        warps: list[geometry.Warp] = []
        for position, (name, strength) in enumerate(choices):
            kind, own_key = AUGMENTATIONS[name], jax.random.fold_in(key, position)
            if kind.is_warp:
                warps.append(kind.change(own_key, strength, example.shape[:2]))
                continue
            example, warps = geometry.sample(example, warps), []
            colours = [colour_components] if kind.needs_colours else []
            example = kind.change(own_key, strength, example, *colours)
        return geometry.sample(example, warps)

    return augment
