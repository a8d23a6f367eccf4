"""The types that pass between the training block's public functions and its implementations.

A block is a convolution, batch normalization (Ioffe and Szegedy, 2015) and an activation function:

    raw = conv(x, kernel)
    mean, variance = those of raw, for each channel over batch and space, and over devices
    y = activation((raw - mean) scale / sqrt(variance + epsilon) + bias + residual)

It is cut where the statistics are complete. Before the cut a convolution gathers the moments of
what it stores; after it one pass over the stored values does the rest, or the next convolution
does it as it reads them: then a normalization is *pending* on that convolution's input.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ACTIVATIONS = ("relu", "none")

Images = Float[Array, "batch height width inputs"]
Kernel = Float[Array, "rows columns inputs outputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]
Vector = Float[Array, " outputs"]


class Statistics(NamedTuple):
    """A batch's own statistics, float32.

    Attributes:
      mean: of each channel.
      variance: the biased one, about that mean.
    """

    mean: Float[Array, " channels"]
    variance: Float[Array, " channels"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("mean", "variance", "scale", "bias"),
    meta_fields=("activation", "epsilon", "axis_name"),
)
@dataclasses.dataclass(frozen=True)
class Normalization:
    """A normalization by a batch's own statistics, and the activation function after it.

    Attributes:
      mean: of what is normalized, `[channels]`, as `conv_stats` returned it.
      variance: likewise.
      scale: gamma, `[channels]`.
      bias: beta, `[channels]`.
      activation: "relu" or "none".
      epsilon: added to the variance.
      axis_name: the mapped axis over which the statistics were gathered, if any.
    """

    # JAX makes pytrees of other things than arrays, too, and the tests check the types of fields.
    mean: Any
    variance: Any
    scale: Any
    bias: Any
    activation: str = "relu"
    epsilon: float = 1e-5
    axis_name: str | None = None

    @property
    def vectors(self) -> dict[str, Any]:
        """Its arrays by name."""
        return {name: getattr(self, name) for name in ("mean", "variance", "scale", "bias")}

    @property
    def deviation_inverse(self) -> Float[Array, " channels"]:
        """1 / sqrt(variance + epsilon)."""
        return jax.lax.rsqrt(self.variance + self.epsilon)

    @property
    def affine(self) -> "Affine":
        """The normalization as an implementation gets it."""
        scale, bias = self.scale.astype(jnp.float32), self.bias.astype(jnp.float32)
        return Affine(self.mean, scale * self.deviation_inverse, bias)


class Affine(NamedTuple):
    """(raw - mean) factor + bias, float32.

    The mean is subtracted first: raw factor + (bias - mean factor) cancels where the mean is much
    larger than the deviation.
    """

    mean: Float[Array, " channels"]
    factor: Float[Array, " channels"]
    bias: Float[Array, " channels"]


class Moments(NamedTuple):
    """Moments of the values of each channel on one device, float32.

    Attributes:
      mean: of the values as they are stored.
      squares: the sum of their squares about that mean.
    """

    mean: Float[Array, " channels"]
    squares: Float[Array, " channels"]


class Sums(NamedTuple):
    """Over the rows of one device, for each channel, float32; g is the cotangent that is summed.

    Attributes:
      cotangents: the sum of g.
      products: the sum of g (raw - mean).
      centered: the sum of raw - mean: what rounding has left in it is n times the mean's error,
        which a gradient would otherwise multiply by the mean of the input.
    """

    cotangents: Float[Array, " channels"]
    products: Float[Array, " channels"]
    centered: Float[Array, " channels"]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution.

    Attributes:
      batch: number of images.
      height: of the input.
      width: of the input.
      inputs: channels of the input.
      outputs: channels of the output.
      kernel_size: rows and columns of the kernel.
      strides: down and across.
      padding: zeros above and below, left and right.
    """

    batch: int
    height: int
    width: int
    inputs: int
    outputs: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def space(self) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = (
            (length + sum(pads) - extent) // stride + 1
            for length, pads, extent, stride in zip(
                (self.height, self.width), self.padding, self.kernel_size, self.strides, strict=True
            )
        )
        return height, width

    @property
    def rows(self) -> int:
        """Places of the output in the whole batch: a channel's moments are over so many."""
        height, width = self.space
        return self.batch * height * width

    @property
    def is_matrix_product(self) -> bool:
        """Whether it multiplies the input's positions, or every second of them, by a matrix."""
        return self.kernel_size == (1, 1) and self.padding == ((0, 0), (0, 0))

    @property
    def is_3x3(self) -> bool:
        """Whether it is the 3x3 convolution that keeps height and width."""
        same = ((1, 1), (1, 1))
        return self.kernel_size == (3, 3) and self.strides == (1, 1) and self.padding == same


class Primitives(Protocol):
    """What an implementation provides. Sums and statistics are float32, whatever the dtype of x.

    Attributes:
      POSITIONS: the order of the axes batch (0), height (1) and width (2) in which positions become
        rows: the one in which the device has them in memory, so that nothing is moved.
    """

    POSITIONS: tuple[int, int, int]

    def conv_refusal(self, geometry: Geometry, dtype: Any) -> str | None:
        """Why `conv_stats` cannot serve such a call, or None."""

    def conv_stats(
        self,
        x: Float[Array, "batch height width inputs"],
        kernel: Float[Array, "rows columns inputs outputs"],
        pending: Affine | None,
        geometry: Geometry,
        *,
        activation: str,
    ) -> tuple[Float[Array, "batch new_height new_width outputs"], Moments]:
        """The convolution, of x's dtype, and the moments of it as it is stored.

        With `pending` the convolution is that of activation((x - mean) factor + bias), rounded to
        x's dtype; zeros are padded to that.
        """

    def normalize(
        self,
        raw: Float[Array, "rows channels"],
        affine: Affine,
        residual: Float[Array, "rows channels"] | None,
        *,
        activation: str,
    ) -> Float[Array, "rows channels"]:
        """activation((raw - mean) factor + bias + residual)."""

    def cotangent_sums(
        self,
        raw: Float[Array, "rows channels"],
        affine: Affine,
        outputs: Float[Array, "rows channels"] | None,
        cotangent: Float[Array, "rows channels"],
        *,
        activation: str,
    ) -> tuple[Sums, Float[Array, "rows channels"] | None]:
        """The first pass back: g, the cotangent in front of the activation, added up.

        Where `outputs` are given g is zero where they are; else where the normalized value,
        computed again, is not positive; without an activation g is the cotangent itself.

        Returns:
          The sums over the rows; with `outputs` also g itself.
        """

    def cotangent(
        self,
        raw: Float[Array, "rows channels"],
        affine: Affine,
        cotangent: Float[Array, "rows channels"],
        slope: Float[Array, " channels"],
        offset: Float[Array, " channels"],
        *,
        activation: str,
    ) -> Float[Array, "rows channels"]:
        """The second pass: factor g + slope (raw - mean) + offset."""
