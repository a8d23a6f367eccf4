"""Convolution, batch normalization and activation as one layer, by `kernels.conv_bn_relu`."""

from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from dlcore import parallel
from dlcore.errors import UsageError
from dlcore.nn.normalization import RunningAverages
from kernels.conv_bn_relu import Normalization, conv_bn_relu_inference, conv_stats, normalize

Inputs = Float[Array, "batch height width inputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]


class Pending(NamedTuple):
    """The result of a convolution that is not normalized yet.

    Attributes:
      raw: what the convolution gave.
      normalization: what is still to be done to it, the activation included.
    """

    raw: Float[Array, "batch height width channels"]
    normalization: Normalization


class _Layer(nn.Module):
    """What `ConvNorm`, which documents it, and `PendingConvNorm` share."""

    features: int
    kernel_size: int = 3
    strides: int = 1
    activation: str = "relu"
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def _convolve(
        self, x: Inputs | Pending, train: bool, residual: Outputs | None
    ) -> Outputs | Pending:
        """In evaluation the layer's output; in training what is pending, without the residual.

        Raises:
          UsageError: the kernel size is even.
        """
        if self.kernel_size % 2 == 0:
            raise UsageError(
                f"kernel_size={self.kernel_size}: it must be odd, so that the kernel has a center"
            )
        x, pending = x if isinstance(x, Pending) else (x, None)
        initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", initializer, shape)
        scale = self.param("scale", nn.initializers.ones, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        averages = RunningAverages(self, self.features, self.momentum)
        half = self.kernel_size // 2
        geometry: Any = {"strides": self.strides, "padding": ((half, half), (half, half))}
        if not train:
            return conv_bn_relu_inference(
                x,
                kernel,
                scale,
                bias,
                averages.mean.value,
                averages.var.value,
                residual=residual,
                activation=self.activation,
                epsilon=self.epsilon,
                **geometry,
            )
        axis = parallel.axis_name()
        raw, statistics = conv_stats(x, kernel, pending, axis_name=axis, **geometry)
        averages.move(*statistics, raw.size // self.features * parallel.axis_size())
        return Pending(
            raw, Normalization(*statistics, scale, bias, self.activation, self.epsilon, axis)
        )


class ConvNorm(_Layer):
    """A convolution without bias, batch normalization, and an activation.

    The convolution pads half a kernel on every side, also with a stride. Its kernel starts normal
    with variance 2 / fan-out (He et al., 2015, eq. 14). The normalization is that of `BatchNorm`;
    evaluation folds it into the kernel. The output has the dtype of the input; sums and statistics
    are float32. Which implementation computes it is for `kernels.dispatch.using` to say.

    Attributes:
      features: channels of the output.
      kernel_size: height and width of the kernel, odd.
      strides: vertical and horizontal.
      activation: "relu" or "none".
      momentum: weight of the old value in the running averages.
      epsilon: added to the variance.
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
    """A `ConvNorm` whose output is read by one other such layer and by nothing else.

    In training its normalization is left to that layer, which does it as it reads.
    """

    def __call__(self, x: Inputs | Pending, train: bool) -> Outputs | Pending:
        """What to hand on; arguments as for `ConvNorm`."""
        return self._convolve(x, train, None)
