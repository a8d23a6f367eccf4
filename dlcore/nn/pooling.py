"""Pooling: the largest of each window, and the trainable subsampling of 1998."""

import flax.linen as nn
from jaxtyping import Array, Float

from dlcore.nn.initializers import uniform_by_fan_in


def max_pool(
    x: Float[Array, "batch height width maps"],
) -> Float[Array, "batch height//2 width//2 maps"]:
    """The largest number of each 2x2 window; the windows do not overlap.

    An odd last row or column is left out.
    """
    return nn.max_pool(x, (2, 2), strides=(2, 2))


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
        return _windows(x).sum((2, 4)) * coefficient + bias


def _windows(
    x: Float[Array, "batch height width maps"],
) -> Float[Array, "batch height//2 2 width//2 2 maps"]:
    batch, height, width, maps = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(batch, height // 2, 2, width // 2, 2, maps)
