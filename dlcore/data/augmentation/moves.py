"""What moves things in a picture: its pixels, the class of every pixel and boxes go together.

Places are rows and columns; a point is given in shares of height and width, 0..1 from the picture's
upper left corner to its lower right one. What a move uncovers is background: 0 in an image, and in
a segmentation the class to be ignored, or 0 where it has none.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, override

import jax
import jax.numpy as jnp

from dlcore.data import features as kinds
from dlcore.data.features import Feature
from dlcore.errors import UsageError

Example = dict[str, jax.Array]
Size = tuple[int, int]

# Of a box that is cut off, what must remain of it.
_REMAINING = 1 / 3


class Move(abc.ABC):
    """A change of where things are in a picture of a certain size."""

    @abc.abstractmethod
    def pixels(self, image: jax.Array) -> jax.Array:
        """An image `[height, width, channels]` after the move."""

    @abc.abstractmethod
    def classes(self, classes: jax.Array, background: int) -> jax.Array:
        """A class for every pixel `[height, width]` after it."""

    @abc.abstractmethod
    def points(self, points: jax.Array) -> jax.Array:
        """Points `[..., 2]` of the picture after it; outside of 0..1 where they have left it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Mirror(Move):
    """Left and right (axis 1) or top and bottom (axis 0) change places, or do not."""

    axis: int
    happens: jax.Array

    @override
    def pixels(self, image: jax.Array) -> jax.Array:
        return jnp.where(self.happens, jnp.flip(image, self.axis), image)

    @override
    def classes(self, classes: jax.Array, background: int) -> jax.Array:
        return self.pixels(classes)

    @override
    def points(self, points: jax.Array) -> jax.Array:
        mirrored = points.at[..., self.axis].set(1 - points[..., self.axis])
        return jnp.where(self.happens, mirrored, points)


@dataclasses.dataclass(frozen=True, eq=False)
class Cut(Move):
    """Background is added on each side, and a rectangle cut out of the whole.

    Attributes:
      size: of the picture before.
      padding: pixels of background on each side.
      first: row and column, with the padding, where the rectangle begins, `[2]`.
      cut: height and width of the rectangle.
    """

    size: Size
    padding: int
    first: jax.Array
    cut: Size

    @override
    def pixels(self, image: jax.Array) -> jax.Array:
        return self._cut(image, 0)

    @override
    def classes(self, classes: jax.Array, background: int) -> jax.Array:
        return self._cut(classes, background)

    @override
    def points(self, points: jax.Array) -> jax.Array:
        pixels = points * jnp.array(self.size) + self.padding - self.first
        return pixels / jnp.array(self.cut)

    def _cut(self, array: jax.Array, background: int) -> jax.Array:
        others = array.shape[2:]
        padding = ((self.padding,) * 2,) * 2 + ((0, 0),) * len(others)
        padded = jnp.pad(array, padding, constant_values=background)
        first: list[Any] = [self.first[0], self.first[1], *(0 for _ in others)]
        return jax.lax.dynamic_slice(padded, first, (*self.cut, *others))


@dataclasses.dataclass(frozen=True, eq=False)
class Window(Move):
    """A rectangle of the picture is resized; an image averages over pixels that it merges.

    Attributes:
      size: of the picture before.
      first: row and column of the rectangle's upper left corner, in pixels, `[2]`.
      sides: its height and width, in pixels, `[2]`.
      cut: height and width of the picture after.
    """

    size: Size
    first: jax.Array
    sides: jax.Array
    cut: Size

    @override
    def pixels(self, image: jax.Array) -> jax.Array:
        scale = jnp.array(self.cut) / self.sides
        return jax.image.scale_and_translate(
            image,
            (*self.cut, image.shape[2]),
            (0, 1),
            scale,
            -self.first * scale,
            "linear",
            antialias=True,
        )

    @override
    def classes(self, classes: jax.Array, background: int) -> jax.Array:
        # A place on the border of two pixels is shown by the second, however the quotient rounds:
        # compiled, it is a product by the reciprocal.
        rows, columns = (
            jnp.floor(first + (jnp.arange(count) + 0.5) * side / count + 1e-3).astype(jnp.int32)
            for first, side, count in zip(self.first, self.sides, self.cut, strict=True)
        )
        return classes[rows[:, None], columns]

    @override
    def points(self, points: jax.Array) -> jax.Array:
        return (points * jnp.array(self.size) - self.first) / self.sides


@dataclasses.dataclass(frozen=True, eq=False)
class Warp:
    """Where the pixels of a changed image come from. A warp belongs to a size, not to an image.

    Attributes:
      source: from rows and columns `[2, ...]` in the changed image, counted in pixels, to those in
        the image that they show.
      target: the way back; None where there is no formula for it.
    """

    source: Callable[[jax.Array], jax.Array]
    target: Callable[[jax.Array], jax.Array] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Warps(Move):
    """Warps one after the other, the first one first: each pixel is looked up only once.

    Images are read bilinearly, and of classes that of the nearest pixel.

    Attributes:
      size: of the picture.
      warps: of that size.
    """

    size: Size
    warps: Sequence[Warp]

    @override
    def pixels(self, image: jax.Array) -> jax.Array:
        places = list(self._sources())

        def channel(plane: jax.Array) -> jax.Array:
            return jax.scipy.ndimage.map_coordinates(plane, places, order=1, cval=0.0)

        return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)

    @override
    def classes(self, classes: jax.Array, background: int) -> jax.Array:
        row, column = jnp.floor(self._sources() + 0.5).astype(jnp.int32)
        height, width = self.size
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        # A place outside is clipped to the border when it is read, and not used.
        return jnp.where(inside, classes[row, column], background)

    @override
    def points(self, points: jax.Array) -> jax.Array:
        size = jnp.array(self.size, jnp.float32)
        # The first pixel's center is half a pixel inside of the picture.
        places = jnp.moveaxis(points * size - 0.5, -1, 0)
        for warp in self.warps:
            if warp.target is None:
                raise ValueError("there is no formula for where this warp takes a point")
            places = warp.target(places)
        return (jnp.moveaxis(places, 0, -1) + 0.5) / size

    def _sources(self) -> jax.Array:
        axes = (jnp.arange(length, dtype=jnp.float32) for length in self.size)
        places = jnp.stack(jnp.meshgrid(*axes, indexing="ij"))
        # The last image's pixels are looked up in the one before it, and so on.
        for warp in reversed(self.warps):
            places = warp.source(places)
        return places


def moved(example: Example, features: Mapping[str, Feature], move: Move) -> Example:
    """An example whose images, segmentations and boxes have all been moved.

    A box becomes the one around its moved corners, as far as it lies in the picture; it is dropped
    where less than a third of that remains.
    """
    changed = dict(example)
    for key, feature in features.items():
        if key not in example:
            continue
        match feature:
            case kinds.Image():
                changed[key] = move.pixels(example[key])
            case kinds.Segmentation():
                changed[key] = move.classes(example[key], feature.ignore or 0)
            case kinds.Boxes():
                changed |= _moved_boxes(example, key, move)
    return changed


def _moved_boxes(example: Example, key: str, move: Move) -> Example:
    ymin, xmin, ymax, xmax = jnp.moveaxis(example[key], -1, 0)
    rows, columns = (jnp.stack(sides) for sides in ((ymin, ymin, ymax, ymax), (xmin, xmax) * 2))
    corners = move.points(jnp.stack([rows, columns], axis=-1))
    first, last = corners.min(0), corners.max(0)
    whole = jnp.prod(last - first, axis=-1)
    first, last = jnp.clip(first, 0, 1), jnp.clip(last, 0, 1)
    remaining = jnp.prod(last - first, axis=-1)
    mask = example[f"{key}_mask"] * (remaining >= whole * _REMAINING)
    boxes = jnp.concatenate([first, last], axis=-1) * mask[:, None]
    labels = jnp.where(mask > 0, example[f"{key}_label"], 0)
    return {key: boxes, f"{key}_mask": mask, f"{key}_label": labels}


def picture_size(example: Example, features: Mapping[str, Feature]) -> Size:
    """Height and width of the pictures that move together.

    Raises:
      UsageError: they have different sizes.
    """
    moving = (kinds.Image, kinds.Segmentation)
    sizes = {
        key: example[key].shape[:2]
        for key, feature in features.items()
        if isinstance(feature, moving) and key in example
    }
    if len(set(sizes.values())) != 1:
        each = ", ".join(f"{key} {height} x {width}" for key, (height, width) in sizes.items())
        raise UsageError(f"pictures of different sizes cannot be moved together: {each}")
    height, width = next(iter(sizes.values()))
    return height, width
