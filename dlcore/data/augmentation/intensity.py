"""Changes of an image's values, every pixel in its place.

Nothing is clipped: values may leave 0..1, so that what is added keeps its distribution.
"""

import jax
import jax.numpy as jnp


def brightness(key: jax.Array, offset: float, image: jax.Array) -> jax.Array:
    """Adds one number of at most that size to all pixels."""
    return image + jax.random.uniform(key, minval=-offset, maxval=offset)


def contrast(key: jax.Array, share: float, image: jax.Array) -> jax.Array:
    """Multiplies the distance to each channel's mean by 1 - share to 1 + share."""
    mean = image.mean((0, 1))
    return mean + (image - mean) * (1 + share * jax.random.uniform(key, minval=-1.0))


def noise(key: jax.Array, standard_deviation: float, image: jax.Array) -> jax.Array:
    """Adds Gaussian noise, to each value its own."""
    return image + standard_deviation * jax.random.normal(key, image.shape)


def pca_color(
    key: jax.Array, standard_deviation: float, image: jax.Array, components: jax.Array
) -> jax.Array:
    """Adds one offset along the principal axes of color to all pixels.

    Krizhevsky et al. (2012), section 4.1: the sum of p_i alpha_i lambda_i over eigenvectors p and
    eigenvalues lambda of the colors' covariance, with alpha_i of that standard deviation (0.1
    there). The eigenvalue, and not its root, is the paper's: the size depends on pixels in 0..1.

    Args:
      key: random.
      standard_deviation: of each alpha_i.
      image: `[height, width, channels]`.
      components: `[channels, channels]`, in column i lambda_i p_i.
    """
    alpha = standard_deviation * jax.random.normal(key, components.shape[1:])
    return image + jnp.sum(components * alpha, axis=1)
