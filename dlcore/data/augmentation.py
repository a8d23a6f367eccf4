"""Random changes of training images that leave their class alone, in pure JAX.

Each takes a random key and one image `[height, width, channels]` in 0..1 and returns an image of
that shape; what a change uncovers is background, 0. Keys belong to examples, so that the result
does not depend on how a batch is laid out over devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlcore.errors import UsageError

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]

_CROP_PADDING = 4
_MAX_ROTATION = jnp.pi / 18
_MAX_SCALING = 0.1
_MAX_SHEAR = 0.1
_MAX_SHIFT = 0.07
_ELASTIC_SMOOTHNESS = 4.0
_ELASTIC_STRENGTH = 34.0


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors left and right, every second time."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def crop(key: jax.Array, image: jax.Array) -> jax.Array:
    """Pads 4 pixels on each side and cuts the size out anywhere (He et al. 2016, section 4.2)."""
    padding = ((_CROP_PADDING, _CROP_PADDING), (_CROP_PADDING, _CROP_PADDING), (0, 0))
    row, column = jax.random.randint(key, (2,), 0, 2 * _CROP_PADDING + 1)
    return jax.lax.dynamic_slice(jnp.pad(image, padding), (row, column, 0), image.shape)


def affine(key: jax.Array, image: jax.Array) -> jax.Array:
    """Rotates, scales, shears and shifts a little about the centre (as LeCun et al. 1998, III-A).

    By up to 10 degrees, 10 % in each direction, a tenth of a pixel a column, and 7 % of the side.
    """
    uniform = jax.random.uniform(key, (6,), minval=-1.0)
    angle, shear = uniform[0] * _MAX_ROTATION, uniform[1] * _MAX_SHEAR
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotation = jnp.array([[cos, -sin], [sin, cos]])
    stretch = jnp.diag(1 + uniform[2:4] * _MAX_SCALING) @ jnp.array([[1.0, 0.0], [shear, 1.0]])
    size = jnp.array(image.shape[:2], jnp.float32)
    centre, shift = (size - 1) / 2, uniform[4:] * _MAX_SHIFT * size
    from_centre = _grid(image) - centre[:, None, None]
    places = jnp.einsum("ij,jhw->ihw", rotation @ stretch, from_centre)
    return _sample(image, places + (centre + shift)[:, None, None])


def elastic(key: jax.Array, image: jax.Array) -> jax.Array:
    """Moves every pixel by a smooth random field (Simard et al. 2003, section 2).

    Uniform displacements in -1..1, convolved with a Gaussian of deviation 4, times 34: the paper's
    best values, for digits of 28 or 29 pixels.
    """
    field = jax.random.uniform(key, (2, *image.shape[:2]), minval=-1.0)
    rows, columns = (_gaussian_blur(size) for size in image.shape[:2])
    smooth = jnp.einsum("ab,cd,ibd->iac", rows, columns, field)
    return _sample(image, _grid(image) + _ELASTIC_STRENGTH * smooth)


def _gaussian_blur(size: int) -> jax.Array:
    """The matrix that convolves a vector with a Gaussian of sum 1, seeing zeros outside."""
    distance = jnp.arange(size, dtype=jnp.float32)[:, None] - jnp.arange(size)[None, :]
    density = jnp.exp(-0.5 * (distance / _ELASTIC_SMOOTHNESS) ** 2)
    return density / (_ELASTIC_SMOOTHNESS * jnp.sqrt(2 * jnp.pi))


def _grid(image: jax.Array) -> jax.Array:
    """Row and column of every pixel, float32 `[2, height, width]`."""
    return jnp.stack(
        jnp.meshgrid(
            *(jnp.arange(size, dtype=jnp.float32) for size in image.shape[:2]), indexing="ij"
        )
    )


def _sample(image: jax.Array, places: jax.Array) -> jax.Array:
    """The image at fractional rows and columns `[2, height, width]`, bilinearly, 0 outside."""

    def channel(plane: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(plane, list(places), order=1, cval=0.0)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": flip,
    "crop": crop,
    "affine": affine,
    "elastic": elastic,
}


def parse(names: str) -> Augmentation:
    """The augmentations of a comma-separated list, one after the other.

    Raises:
      UsageError: an unknown name.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in AUGMENTATIONS:
            raise UsageError(
                f"unknown augmentation {name!r}: it is one of {', '.join(AUGMENTATIONS)}"
            )

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        for position, name in enumerate(chosen):
            image = AUGMENTATIONS[name](jax.random.fold_in(key, position), image)
        return image

    return augment
