"""Convolution, batch normalization and activation as one layer, by `kernels.conv_bn_relu`.

`ConvNorm` is convolution, normalization, activation, the order of most networks; where its output
is read by one more such layer alone, it is a `PendingConvNorm`. Networks that normalize before they
convolve are chains of `PendingNorm`, `PendingConvNorm` and, at the end, a `MeasuredConv`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore import parallel
from dlcore.errors import UsageError
from dlcore.nn.initializers import Initializer
from dlcore.nn.normalization import RunningAverages, batch_statistics
from kernels.conv_bn_relu import (
    Normalization,
    Statistics,
    conv_bn_relu_inference,
    conv_stats,
    normalize,
)

Inputs = Float[Array, "batch height width inputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]

# Normal, of variance 2 / fan-out (He et al., 2015, eq. 14).
HE_FAN_OUT: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Pending(NamedTuple):
    """The result of a convolution that is not normalized yet.

    Attributes:
      raw: what the convolution gave.
      normalization: what is still to be done to it, the activation included.
    """

    raw: Float[Array, "batch height width channels"]
    normalization: Normalization


class Measured(NamedTuple):
    """Values with their statistics, so that none that reads them has to gather these again.

    Attributes:
      values: the numbers themselves.
      statistics: of each channel over the global batch; None in evaluation, which needs none.
    """

    values: Float[Array, "batch height width channels"]
    statistics: Statistics | None


def measure(values: Float[Array, "batch height width channels"], train: bool) -> Measured:
    """Values that no `MeasuredConv` has written (of a pooling, say), with their statistics."""
    return Measured(values, Statistics(*batch_statistics(values)) if train else None)


def concatenate(parts: Sequence[Measured]) -> Measured:
    """Channels beside each other; their statistics are known where those of all parts are."""
    values = jnp.concatenate([part.values for part in parts], axis=-1)
    known = [part.statistics for part in parts if part.statistics is not None]
    if len(known) < len(parts):
        return Measured(values, None)
    return Measured(values, Statistics(*map(jnp.concatenate, zip(*known, strict=True))))


class _Layer(nn.Module):
    """What `ConvNorm`, which documents it, and `PendingConvNorm` share."""

    features: int
    kernel_size: int = 3
    strides: int = 1
    activation: str = "relu"
    momentum: float = 0.9
    epsilon: float = 1e-5
    kernel_init: Initializer = HE_FAN_OUT
    use_bias: bool = False

    @nn.compact
    def _convolve(
        self, x: Inputs | Pending, train: bool, residual: Outputs | None
    ) -> Outputs | Pending:
        """In evaluation the layer's output; in training what is pending, without the residual.

        Raises:
          UsageError: the kernel size is even.
        """
        x, pending = x if isinstance(x, Pending) else (x, None)
        kernel, geometry = _kernel(self, x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, (self.features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        averages = RunningAverages(self, self.features, self.momentum)
        # A constant moves the mean, which is subtracted: no array is touched for it.
        shift: Any = 0.0
        if self.use_bias:
            shift = self.param("conv_bias", nn.initializers.zeros, (self.features,), jnp.float32)
        if not train:
            return conv_bn_relu_inference(
                x,
                kernel,
                scale,
                bias,
                averages.mean.value - shift,
                averages.var.value,
                residual=residual,
                activation=self.activation,
                epsilon=self.epsilon,
                **geometry,
            )
        axis = parallel.axis_name()
        raw, statistics = conv_stats(x, kernel, pending, axis_name=axis, **geometry)
        mean, variance = statistics
        averages.move(mean + shift, variance, raw.size // self.features * parallel.axis_size())
        return Pending(
            raw, Normalization(*statistics, scale, bias, self.activation, self.epsilon, axis)
        )


def _kernel(layer: Any, inputs: int) -> tuple[Any, dict[str, Any]]:
    """A layer's kernel, and strides and padding of its convolution."""
    if layer.kernel_size % 2 == 0:
        raise UsageError(
            f"kernel_size={layer.kernel_size}: it must be odd, so that the kernel has a center"
        )
    shape = (layer.kernel_size, layer.kernel_size, inputs, layer.features)
    half = layer.kernel_size // 2
    geometry = {"strides": layer.strides, "padding": ((half, half), (half, half))}
    return layer.param("kernel", layer.kernel_init, shape, jnp.float32), geometry


class ConvNorm(_Layer):
    """A convolution, batch normalization, and an activation.

    The convolution pads half a kernel on every side, also with a stride. The normalization is that
    of `BatchNorm`; evaluation folds it into the kernel. The output has the dtype of the input; sums
    and statistics are float32. Which implementation computes it is for `kernels.dispatch.using` to
    say.

    Attributes:
      features: channels of the output.
      kernel_size: height and width of the kernel, odd.
      strides: vertical and horizontal.
      activation: "relu" or "none".
      momentum: weight of the old value in the running averages.
      epsilon: added to the variance.
      kernel_init: of the kernel; by default normal with variance 2 / fan-out.
      use_bias: whether the convolution adds a bias of its own, `conv_bias`. The normalization takes
        it away again: it is there for layouts, and for weights, that have it.
    """

    def __call__(
        self, x: Inputs | Pending, train: bool, residual: Outputs | None = None
    ) -> Outputs:
        """The layer's output; with `train` set also moves the running averages.

        Args:
          x: an array, or what a `PendingConvNorm` has handed on.
          train: whether the batch's own statistics normalize.
          residual: added before the activation.
        """
        outputs = self._convolve(x, train, residual)
        if not isinstance(outputs, Pending):
            return outputs
        return normalize(*outputs, residual)


class PendingConvNorm(_Layer):
    """A `ConvNorm` whose output is read by convolutions of this file and by nothing else.

    In training its normalization is left to them, which do it as they read.
    """

    def __call__(self, x: Inputs | Pending, train: bool) -> Outputs | Pending:
        """What to hand on; arguments as for `ConvNorm`."""
        return self._convolve(x, train, None)


class PendingNorm(nn.Module):
    """Batch normalization and an activation of what convolutions of this file, alone, then read.

    Attributes:
      activation: "relu" or "none".
      momentum: weight of the old value in the running averages.
      epsilon: added to the variance.
    """

    activation: str = "relu"
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Inputs | Measured, train: bool) -> Inputs | Pending:
        """In evaluation the normalized values; in training what is still to be done to them.

        Args:
          x: values; their statistics are gathered where they do not come along.
          train: whether the batch's own statistics normalize.
        """
        x, statistics = x if isinstance(x, Measured) else (x, None)
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        averages = RunningAverages(self, features, self.momentum)
        if not train:
            factor = scale * jax.lax.rsqrt(averages.var.value + self.epsilon)
            y = (x.astype(jnp.float32) - averages.mean.value) * factor + bias
            return (nn.relu(y) if self.activation == "relu" else y).astype(x.dtype)
        # The gradient through them is part of that of `x`: see `kernels.conv_bn_relu.normalize`.
        mean, variance = jax.lax.stop_gradient(statistics or batch_statistics(x))
        averages.move(mean, variance, x.size // features * parallel.axis_size())
        axis = parallel.axis_name()
        return Pending(
            x, Normalization(mean, variance, scale, bias, self.activation, self.epsilon, axis)
        )


class Norm(PendingNorm):
    """A `PendingNorm` that is read by anything."""

    def __call__(self, x: Inputs | Measured, train: bool) -> Inputs:
        """The normalized values; arguments as for `PendingNorm`."""
        y = super().__call__(x, train)
        return normalize(*y) if isinstance(y, Pending) else y


class MeasuredConv(nn.Module):
    """A convolution without a normalization after it, nor a bias.

    Attributes:
      features: channels of the output.
      kernel_size: height and width of the kernel, odd.
      strides: vertical and horizontal.
      kernel_init: of the kernel; by default normal with variance 2 / fan-out.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    kernel_init: Initializer = HE_FAN_OUT

    @nn.compact
    def __call__(self, x: Inputs | Pending, train: bool) -> Measured:
        """What it gives, and in training its statistics, for a `PendingNorm` that reads it.

        Args:
          x: an array, or what is pending.
          train: whether statistics are wanted.
        """
        x, pending = x if isinstance(x, Pending) else (x, None)
        kernel, geometry = _kernel(self, x.shape[-1])
        axis = parallel.axis_name() if train else None
        values, statistics = conv_stats(x, kernel, pending, axis_name=axis, **geometry)
        return Measured(values, statistics if train else None)
