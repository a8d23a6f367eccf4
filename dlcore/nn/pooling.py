"""Pooling: the largest of each window, and the trainable subsampling of 1998."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.nn.initializers import uniform_by_fan_in


def max_pool(
    x: Float[Array, "batch height width maps"],
) -> Float[Array, "batch height//2 width//2 maps"]:
    """The largest number of each 2x2 window; the windows do not overlap.

    An odd last row or column is left out. Where several numbers of a window are the largest, they
    share the gradient. (`nn.max_pool` gives it to the first of them, by select-and-scatter, which
    has no deterministic form on a GPU and on a CPU makes LeNet-5 a quarter slower.)
    """
    return _over_windows(jnp.maximum, x)


class TrainableSubsampling(nn.Module):
    """Each map's 2x2 windows summed, times a trainable coefficient, plus a trainable bias.

    One coefficient and one bias a map; the windows do not overlap. The squashing function is the
    caller's.

    Source: LeCun, Bottou, Bengio and Haffner (1998), section II.B, layers S2 and S4, appendix A.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width maps"]
    ) -> Float[Array, "batch height//2 width//2 maps"]:
        """Halves height and width; an odd last row or column is left out."""
        maps = x.shape[-1:]
        coefficient = self.param("coefficient", uniform_by_fan_in(4), maps)
        bias = self.param("bias", uniform_by_fan_in(4), maps)
        return _over_windows(jnp.add, x) * coefficient + bias


def _over_windows(
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    x: Float[Array, "batch height width maps"],
) -> Float[Array, "batch height//2 width//2 maps"]:
    """The four numbers of each 2x2 window combined: each column's two, then the row's."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    columns = combine(x[:, 0:height:2], x[:, 1:height:2])
    return combine(columns[:, :, 0:width:2], columns[:, :, 1:width:2])
