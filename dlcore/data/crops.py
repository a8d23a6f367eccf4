"""Squares cut out of images: at random for training, at fixed places for a test.

Krizhevsky et al. (2012), section 4.1. All take images `[..., height, width, channels]` and the
square's side in pixels.
"""

import jax
import jax.numpy as jnp

TEST_CROPS = (1, 5, 10)


def random(key: jax.Array, image: jax.Array, side: int) -> jax.Array:
    """A square anywhere in one image `[height, width, channels]`."""
    last = jnp.array(image.shape[:2]) - side
    row, column = jax.random.randint(key, (2,), 0, last + 1)
    return jax.lax.dynamic_slice(image, (row, column, 0), (side, side, image.shape[2]))


def centre(image: jax.Array, side: int) -> jax.Array:
    """The square in the middle; half a pixel nearer to the top left where it cannot be exact."""
    height, width = image.shape[-3:-1]
    return _square(image, (height - side) // 2, (width - side) // 2, side)


def views(image: jax.Array, side: int, count: int) -> jax.Array:
    """What a test looks at, `[..., count, side, side, channels]`.

    One is the centre, five the four corners and the centre, ten these and their mirror images.
    """
    if count == 1:
        return centre(image, side)[..., None, :, :, :]
    bottom, right = image.shape[-3] - side, image.shape[-2] - side
    corners = [_square(image, row, column, side) for row in (0, bottom) for column in (0, right)]
    five = jnp.stack([*corners, centre(image, side)], axis=-4)
    return five if count == 5 else jnp.concatenate([five, five[..., ::-1, :]], axis=-4)


def _square(image: jax.Array, row: int, column: int, side: int) -> jax.Array:
    return image[..., row : row + side, column : column + side, :]
