"""Squares cut out of images: at random for training, at fixed places for a test.

Krizhevsky et al. (2012), section 4.1.
"""

import jax
import jax.numpy as jnp

from dlcore.data.augmentation.moves import Cut, Size

TEST_CROPS = (1, 5, 10)


def random(key: jax.Array, size: Size, side: int) -> Cut:
    """A square of that side anywhere in a picture of a size, both in pixels."""
    last = jnp.array(size) - side
    return Cut(size, 0, jax.random.randint(key, (2,), 0, last + 1), (side, side))


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
