"""Convolutions that Linen lacks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlcore.nn.initializers import uniform_by_fan_in


class PartiallyConnectedConv(nn.Module):
    """A convolution in which each output map sees only some input maps, as a table says.

    Only the connected kernels are parameters: `kernel` is [height, width, connections], where the
    connections are ordered by output map and then as in the table; `bias` is [output maps].

    Source: LeCun, Bottou, Bengio and Haffner (1998), section II.B, table I and appendix A.

    Attributes:
      table: for each output map, the input maps that it sees.
      kernel_size: height and width of a kernel.
    """

    table: tuple[tuple[int, ...], ...]
    kernel_size: tuple[int, int]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch new_height new_width outputs"]:
        """Convolves without padding, with stride 1."""
        sources = np.concatenate(self.table)
        degrees = np.array([len(inputs) for inputs in self.table])
        targets = np.repeat(np.arange(len(self.table)), degrees)
        fan_in = degrees * np.prod(self.kernel_size)

        shape = (*self.kernel_size, len(sources))
        kernel = self.param("kernel", uniform_by_fan_in(fan_in[targets]), shape)
        bias = self.param("bias", uniform_by_fan_in(fan_in), (len(self.table),))

        # One dense convolution with zeros is faster than sixteen small ones.
        dense = jnp.zeros((*self.kernel_size, x.shape[-1], len(self.table)), kernel.dtype)
        dense = dense.at[:, :, sources, targets].set(kernel)
        maps = jax.lax.conv_general_dilated(
            x, dense, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return maps + bias
