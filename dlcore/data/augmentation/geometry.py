"""Mirroring, cutting out and warping images: where each pixel comes from.

A warp maps places in the changed image to the places in the image that they show, rows and columns
`[2, height, width]` counted in pixels. It belongs to the image's size alone, so that warps can be
chained before any pixel is read.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Warp = Callable[[jax.Array], jax.Array]
Size = tuple[int, int]

_MAX_ROTATION = jnp.pi / 18
_MAX_SCALING = 0.1
_MAX_SHEAR = 0.1
_MAX_SHIFT = 0.07
_ELASTIC_SMOOTHNESS = 4.0
# A place must not be rounded to the few bits that accelerators multiply matrices with.
_EXACT = jax.lax.Precision.HIGHEST


def flip(key: jax.Array, probability: float, image: jax.Array) -> jax.Array:
    """Mirrors left and right with that probability."""
    return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


def flip_vertical(key: jax.Array, probability: float, image: jax.Array) -> jax.Array:
    """Mirrors top and bottom with that probability."""
    return jnp.where(jax.random.bernoulli(key, probability), image[::-1], image)


def crop(key: jax.Array, padding: float, image: jax.Array) -> jax.Array:
    """Pads pixels on each side and cuts the size out anywhere.

    He et al. (2016), section 4.2, with 4 pixels: a shift by whole pixels.
    """
    pixels = int(padding)
    padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))
    row, column = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def shift(key: jax.Array, pixels: float, size: Size) -> Warp:
    """Moves by up to that many pixels down or up, and right or left."""
    moved = jax.random.uniform(key, (2,), minval=-pixels, maxval=pixels)
    return lambda places: places + moved[:, None, None]


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
    """Rotates, scales, shears and shifts a little about the centre (as LeCun et al. 1998, III-A).

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

    def warp(places: jax.Array) -> jax.Array:
        u, v = places / scale[:, None, None]
        moved = rows[:, None, None] * u + columns[:, None, None] * v + first[:, None, None]
        return moved / (g * u + h * v + 1) * scale[:, None, None]

    return warp


def elastic(key: jax.Array, strength: float, image: jax.Array) -> jax.Array:
    """Moves every pixel by a smooth random field (Simard et al. 2003, section 2).

    Uniform displacements in -1..1, convolved with a Gaussian of deviation 4, times the strength:
    the paper's best values, for digits of 28 or 29 pixels, are that deviation and 34.
    """
    field = jax.random.uniform(key, (2, *image.shape[:2]), minval=-1.0)
    rows, columns = (_gaussian_blur(size) for size in image.shape[:2])
    smooth = jnp.einsum("ab,cd,ibd->iac", rows, columns, field, precision=_EXACT)
    return sample(image, [lambda places: places + strength * smooth])


def sample(image: jax.Array, warps: Sequence[Warp]) -> jax.Array:
    """The image after those warps, the first one first: bilinearly, 0 outside."""
    if not warps:
        return image
    axes = (jnp.arange(size, dtype=jnp.float32) for size in image.shape[:2])
    places = jnp.stack(jnp.meshgrid(*axes, indexing="ij"))
    # The last image's pixels are looked up in the one before it, and so on.
    for warp in reversed(warps):
        places = warp(places)

    def channel(plane: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(plane, list(places), order=1, cval=0.0)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


def _linear(matrix: jax.Array, size: Size, moved: jax.Array | float = 0.0) -> Warp:
    """The matrix about the image's centre, then a movement."""
    centre = (jnp.array(size, jnp.float32) - 1) / 2

    def warp(places: jax.Array) -> jax.Array:
        from_centre = places - centre[:, None, None]
        turned = jnp.einsum("ij,jhw->ihw", matrix, from_centre, precision=_EXACT)
        return turned + (centre + moved)[:, None, None]

    return warp


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
