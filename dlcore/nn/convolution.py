"""Convolutions that Linen lacks, and a faster form for a network's two ends.

Linen has the others: `nn.Conv` in any number of dimensions with stride, padding, dilation and
groups, 1x1 being one of its kernel sizes; `nn.ConvTranspose` (fractional stride); `nn.ConvLocal`
(locally connected: the weights are not shared). Like all of them it does not flip the kernel:
(K * I)(i, j) = sum K(m, n) I(i + m, j + n), where deck L prints I(i + n, j + m).
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlcore.errors import UsageError
from dlcore.nn.initializers import uniform_by_fan_in


def convolution(
    x: Float[Array, "batch *space channels"],
    kernel: Float[Array, "*size kernel_channels features"],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **geometry: Any,
) -> Float[Array, "batch *new_space features"]:
    """`jax.lax.conv_general_dilated`, channels last, faster on a CPU at a network's two ends.

    XLA's convolutions for the CPU are slow with one input channel, and with a kernel as large as
    the image. There, without strides, the same sums are one matrix product: the shifted images, one
    for each position in the kernel, are laid side by side and multiplied by the kernel as a matrix.
    A training step of LeNet-5, as published or modern, takes 0.8 of the time (batch 128).

    It serves as the `conv_general_dilated` of an `nn.Conv` over any number of axes; with dilation,
    groups or negative padding, or where no window fits (the answer is empty), it is XLA's.
    """
    kernel_size, space = kernel.shape[:-2], x.shape[1:-1]
    axes = [0, x.ndim - 1, *range(1, x.ndim - 1)]
    of_kernel = [kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2)]
    last = jax.lax.ConvDimensionNumbers(tuple(axes), tuple(of_kernel), tuple(axes))
    geometry = {**geometry, "dimension_numbers": last}
    steps = [*strides, geometry.get("feature_group_count", 1), geometry.get("batch_group_count", 1)]
    for dilation in ("lhs_dilation", "rhs_dilation"):
        steps += geometry.get(dilation) or ()

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **geometry)

    if math.prod(steps) > 1 or (x.shape[-1] > 1 and space != kernel_size):
        return convolve(x, kernel)
    pads = padding
    if isinstance(pads, str):
        pads = jax.lax.padtype_to_pads(space, kernel_size, strides, pads)
    # How many places the window has along each axis.
    places = [
        length + sum(pair) - size + 1
        for length, pair, size in zip(space, pads, kernel_size, strict=True)
    ]
    if min(*places, *(min(pair) + 1 for pair in pads)) < 1:
        return convolve(x, kernel)

    def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        shifted = []
        for first in np.ndindex(kernel_size):
            window = (slice(i, i + count) for i, count in zip(first, places, strict=True))
            shifted.append(x[:, *window])
        return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])

    return jax.lax.platform_dependent(x, kernel, cpu=multiply, default=convolve)


class PartiallyConnectedConv(nn.Module):
    """A convolution in which each output channel sees only some input channels, as a table says.

    Only the connected kernels are parameters: `kernel` is [height, width, connections], where the
    connections are ordered by output channel and then as in the table; `bias` is [outputs].

    Source: LeCun, Bottou, Bengio and Haffner (1998), section II.B, table I and appendix A.

    Attributes:
      table: for each output channel, the input channels that it sees.
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
        kernel = self.param("kernel", uniform_by_fan_in(fan_in[targets]), shape, jnp.float32)
        bias = self.param("bias", uniform_by_fan_in(fan_in), (len(self.table),), jnp.float32)

        # One dense convolution with zeros is faster than sixteen small ones.
        dense = jnp.zeros((*self.kernel_size, x.shape[-1], len(self.table)), kernel.dtype)
        dense = dense.at[:, :, sources, targets].set(kernel)
        sums = jax.lax.conv_general_dilated(
            x, dense, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return sums + bias


class UpsampledConv(nn.Module):
    """Upsampling, then a convolution that keeps the size: no checkerboard.

    A transposed convolution whose stride does not divide its kernel size adds up more terms at some
    positions than at others. Here every position is the same sum.

    Source: Odena, Dumoulin and Olah (2016), "Deconvolution and checkerboard artifacts".

    Attributes:
      features: channels of the output.
      kernel_size: of the convolution.
      factor: of the upsampling, along every axis.
      method: "nearest" or "linear", the interpolation.
    """

    features: int
    kernel_size: Sequence[int]
    factor: int = 2
    method: str = "nearest"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *space inputs"]
    ) -> Float[Array, "batch *new_space {self.features}"]:
        """The input enlarged `factor` times along every axis of space, and convolved.

        Raises:
          UsageError: the factor is below 1, or there is no such method.
        """
        if self.factor < 1 or self.method not in ("nearest", "linear"):
            raise UsageError(
                "upsampling is nearest or linear, by a factor of 1 or more, "
                f"not {self.method} by {self.factor}"
            )
        batch, *space, inputs = x.shape
        shape = (batch, *(size * self.factor for size in space), inputs)
        return nn.Conv(self.features, self.kernel_size, name="conv")(
            jax.image.resize(x, shape, self.method)
        )
