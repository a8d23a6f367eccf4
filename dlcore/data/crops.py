"""Squares cut out of images: at random for training, at fixed places for a test.

Krizhevsky et al. (2012), section 4.1; those of random sizes are resized.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dlcore.data.augmentation.moves import Cut, Size, Window

TEST_CROPS = (1, 5, 10)
# The least and the largest width of a rectangle, by its height (Szegedy et al. 2015, section 6).
_PROPORTIONS = (3 / 4, 4 / 3)


def random(key: jax.Array, size: Size, side: int) -> Cut:
    """A square of that side anywhere in a picture of a size, both in pixels."""
    last = jnp.array(size) - side
    return Cut(size, 0, jax.random.randint(key, (2,), 0, last + 1), (side, side))


def of_scales(key: jax.Array, size: Size, side: int, shorter_sides: Sequence[int]) -> Window:
    """A square of that side anywhere in the picture after this is resized.

    Simonyan and Zisserman (2015), section 3.1: scale jittering.

    Args:
      key: random.
      size: of the picture, in pixels.
      side: of the square, in pixels.
      shorter_sides: the least and the largest number of pixels that the picture's shorter side may
        be resized to, `side` or more.
    """
    scale_key, place_key = jax.random.split(key)
    least, largest = shorter_sides
    shorter = jax.random.randint(scale_key, (), least, largest + 1)
    return _anywhere(place_key, size, jnp.full(2, side * min(size) / shorter), side)


def of_areas(key: jax.Array, size: Size, side: int, least: float) -> Window:
    """A rectangle of a part of the picture's area, made a square of that side.

    Szegedy et al. (2015), section 6: the area is uniform, up to the whole; so is the logarithm of
    width by height, from 3/4 to 4/3. A side that would be longer than the picture's is as long.

    Args:
      key: random.
      size: of the picture, in pixels.
      side: of the square, in pixels.
      least: share of the area, above 0 and at most 1.
    """
    area_key, proportion_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, minval=least) * size[0] * size[1]
    low, high = jnp.log(jnp.array(_PROPORTIONS))
    proportion = jnp.exp(jax.random.uniform(proportion_key, minval=low, maxval=high))
    sides = jnp.sqrt(jnp.stack([area / proportion, area * proportion]))
    return _anywhere(place_key, size, jnp.minimum(sides, jnp.array(size)), side)


def _anywhere(key: jax.Array, size: Size, sides: jax.Array, side: int) -> Window:
    first = jax.random.uniform(key, (2,)) * (jnp.array(size) - sides)
    return Window(size, first, sides, (side, side))


def center(size: Size, side: int) -> Cut:
    """The square in the middle; half a pixel nearer to the top left where it cannot be exact."""
    return Cut(size, 0, jnp.array(_middle(size, side)), (side, side))


def views(image: jax.Array, side: int, count: int) -> jax.Array:
    """What a test looks at, `[..., count, side, side, channels]`.

    One is the center, five the four corners and the center, ten these and their mirror images.

    Args:
      image: `[..., height, width, channels]`.
      side: of the squares, in pixels.
      count: 1, 5 or 10.
    """
    height, width = image.shape[-3:-1]
    middle = _middle((height, width), side)
    corners = [(row, column) for row in (0, height - side) for column in (0, width - side)]
    places = [middle] if count == 1 else [*corners, middle]
    squares = [image[..., row : row + side, column : column + side, :] for row, column in places]
    five = jnp.stack(squares, axis=-4)
    return jnp.concatenate([five, five[..., ::-1, :]], axis=-4) if count == 10 else five


def _middle(size: Size, side: int) -> Size:
    height, width = size
    return (height - side) // 2, (width - side) // 2
