"""Mirroring, cutting out and warping pictures: each a move, drawn at random.

Each is a function of a random key, a strength and the picture's height and width in pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dlcore.data.augmentation.moves import Cut, Mirror, Size, Warp, Warps

_MAX_ROTATION = jnp.pi / 18
_MAX_SCALING = 0.1
_MAX_SHEAR = 0.1
_MAX_SHIFT = 0.07
_ELASTIC_SMOOTHNESS = 4.0
# A place must not be rounded to the few bits that accelerators multiply matrices with.
_EXACT = jax.lax.Precision.HIGHEST


def flip(key: jax.Array, probability: float, size: Size) -> Mirror:
    """Mirrors left and right with that probability."""
    return Mirror(1, jax.random.bernoulli(key, probability))


def flip_vertical(key: jax.Array, probability: float, size: Size) -> Mirror:
    """Mirrors top and bottom with that probability."""
    return Mirror(0, jax.random.bernoulli(key, probability))


def crop(key: jax.Array, padding: float, size: Size) -> Cut:
    """Pads pixels on each side and cuts the size out anywhere.

    He et al. (2016), section 4.2, with 4 pixels: a shift by whole pixels.
    """
    pixels = int(padding)
    return Cut(size, pixels, jax.random.randint(key, (2,), 0, 2 * pixels + 1), size)


def shift(key: jax.Array, pixels: float, size: Size) -> Warp:
    """Moves by up to that many pixels down or up, and right or left."""
    moved = jax.random.uniform(key, (2,), minval=-pixels, maxval=pixels)
    return Warp(
        lambda places: places + _at(moved, places), lambda places: places - _at(moved, places)
    )


def rotate(key: jax.Array, degrees: float, size: Size) -> Warp:
    """Turns by up to that many degrees, either way."""
    angle = jax.random.uniform(key, minval=-1.0) * np.radians(degrees)
    return _linear(_rotation(angle), size)


def zoom(key: jax.Array, share: float, size: Size) -> Warp:
    """Shows 1 - share to 1 + share of the image's height and of its width, the same of both."""
    factor = 1 + share * jax.random.uniform(key, minval=-1.0)
    return _linear(factor * jnp.eye(2), size)


def stretch(key: jax.Array, share: float, size: Size) -> Warp:
    """Shows 1 - share to 1 + share of the image's height, and of its width on its own."""
    return _linear(jnp.diag(1 + share * jax.random.uniform(key, (2,), minval=-1.0)), size)


def shear(key: jax.Array, slant: float, size: Size) -> Warp:
    """Slants: each row is moved sideways, against the one above, by up to that many pixels."""
    return _linear(_slant(slant * jax.random.uniform(key, minval=-1.0)), size)


def affine(key: jax.Array, strength: float, size: Size) -> Warp:
    """Rotates, scales, shears and shifts a little about the center (as LeCun et al. 1998, III-A).

    Times the strength: by up to 10 degrees, 10 % in each direction, a tenth of a pixel a row, and
    7 % of the side.
    """
    uniform = jax.random.uniform(key, (6,), minval=-1.0) * strength
    scaling = jnp.diag(1 + uniform[2:4] * _MAX_SCALING)
    stretch = jnp.matmul(scaling, _slant(uniform[1] * _MAX_SHEAR), precision=_EXACT)
    matrix = jnp.matmul(_rotation(uniform[0] * _MAX_ROTATION), stretch, precision=_EXACT)
    return _linear(matrix, size, uniform[4:] * _MAX_SHIFT * jnp.array(size, jnp.float32))


def perspective(key: jax.Array, share: float, size: Size) -> Warp:
    """Shows the image as if seen from aside: each corner moves by up to that share of the sides.

    The projective map that takes the unit square to four given corners is that of Heckbert (1989),
    section 2.2.3.
    """
    square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    corners = square + share * jax.random.uniform(key, (4, 2), minval=-1.0)
    first, second, third, fourth = corners
    bend = first - second + third - fourth
    side, other = second - third, fourth - third
    area = _cross(side, other)
    g, h = _cross(bend, other) / area, _cross(side, bend) / area
    rows, columns = second - first + g * second, fourth - first + h * fourth
    scale = jnp.maximum(jnp.array(size, jnp.float32) - 1, 1)

    def source(places: jax.Array) -> jax.Array:
        u, v = places / _at(scale, places)
        moved = _at(rows, places) * u + _at(columns, places) * v + _at(first, places)
        return moved / (g * u + h * v + 1) * _at(scale, places)

    def target(places: jax.Array) -> jax.Array:
        # Solved for u and v: (rows - g y, columns - h y) (u, v) = y - first, for places y.
        y = places / _at(scale, places)
        a, b = _at(rows, y) - g * y, _at(columns, y) - h * y
        c = y - _at(first, y)
        return jnp.stack([_cross(c, b), _cross(a, c)]) / _cross(a, b) * _at(scale, places)

    return Warp(source, target)


def elastic(key: jax.Array, strength: float, size: Size) -> Warps:
    """Moves every pixel by a smooth random field (Simard et al. 2003, section 2).

    Uniform displacements in -1..1, convolved with a Gaussian of deviation 4, times the strength:
    the paper's best values, for digits of 28 or 29 pixels, are that deviation and 34. Where a point
    goes has no formula, so that boxes cannot follow.
    """
    field = jax.random.uniform(key, (2, *size), minval=-1.0)
    rows, columns = (_gaussian_blur(length) for length in size)
    smooth = jnp.einsum("ab,cd,ibd->iac", rows, columns, field, precision=_EXACT)
    return Warps(size, [Warp(lambda places: places + strength * smooth)])


def _at(vector: jax.Array, places: jax.Array) -> jax.Array:
    """A vector `[2]` for every place `[2, ...]`."""
    return vector.reshape(2, *(1,) * (places.ndim - 1))


def _linear(matrix: jax.Array, size: Size, moved: jax.Array | float = 0.0) -> Warp:
    """The matrix about the image's center, then a movement."""
    center = (jnp.array(size, jnp.float32) - 1) / 2
    to = center + moved
    (a, b), (c, d) = matrix
    inverse = jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)

    def source(places: jax.Array) -> jax.Array:
        return _times(matrix, places - _at(center, places)) + _at(to, places)

    def target(places: jax.Array) -> jax.Array:
        return _times(inverse, places - _at(to, places)) + _at(center, places)

    return Warp(source, target)


def _times(matrix: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.einsum("ij,j...->i...", matrix, places, precision=_EXACT)


def _rotation(angle: jax.Array) -> jax.Array:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[cos, -sin], [sin, cos]])


def _slant(slant: jax.Array) -> jax.Array:
    return jnp.array([[1.0, 0.0], [slant, 1.0]])


def _cross(a: jax.Array, b: jax.Array) -> jax.Array:
    return a[0] * b[1] - a[1] * b[0]


def _gaussian_blur(size: int) -> jax.Array:
    """The matrix that convolves a vector with a Gaussian of sum 1, seeing zeros outside."""
    distance = jnp.arange(size, dtype=jnp.float32)[:, None] - jnp.arange(size)[None, :]
    density = jnp.exp(-0.5 * (distance / _ELASTIC_SMOOTHNESS) ** 2)
    return density / (_ELASTIC_SMOOTHNESS * jnp.sqrt(2 * jnp.pi))
