"""The moments of all values from those of tiles of them (Chan, Golub and LeVeque, 1983)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from kernels.conv_bn_relu.types import Moments


def merge(
    sums: Float[Array, "tiles channels"],
    squares: Float[Array, "tiles channels"],
    counts: Num[Array, " tiles"],
) -> Moments:
    """Mean and sum of squares about it over all tiles.

    Args:
      sums: of each tile's values, float32.
      squares: the sum of their squares about the tile's own mean, float32.
      counts: of values in each tile, at least one.
    """
    weights = counts.astype(jnp.float32)[:, None]
    mean = sums.sum(0) / weights.sum()
    between = weights * jnp.square(sums / weights - mean)
    return Moments(mean, squares.sum(0) + between.sum(0))
