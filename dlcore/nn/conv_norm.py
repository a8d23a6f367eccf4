"""Convolution, batch normalisation and activation as one layer, by `kernels.conv_bn_relu`."""

from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from dlcore import parallel
from dlcore.errors import UsageError
from dlcore.nn.normalization import RunningAverages
from kernels.conv_bn_relu import Normalisation, conv_bn_relu_inference, conv_stats, normalise

Inputs = Float[Array, "batch height width inputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]


class Pending(NamedTuple):
    """Maps that are not normalised yet, and how they are to be.

    Attributes:
      raw: what a convolution gave.
      normalisation: of them, with the activation after it.
    """

    raw: Float[Array, "batch height width maps"]
    normalisation: Normalisation


class _Layer(nn.Module):
    """What `ConvNorm`, which describes it, and `PendingConvNorm` share."""

    features: int
    size: int = 3
    strides: int = 1
    activation: str = "relu"
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def _maps(
        self, x: Inputs | Pending, train: bool, residual: Outputs | None
    ) -> Outputs | Pending:
        """In evaluation what the layer gives; in training that without residual, pending.

        Raises:
          UsageError: the size is even.
        """
        if self.size % 2 == 0:
            raise UsageError(f"the kernel's size is odd, so that it has a middle, not {self.size}")
        x, pending = x if isinstance(x, Pending) else (x, None)
        initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", initializer, shape)
        scale = self.param("scale", nn.initializers.ones, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        averages = RunningAverages(self, self.features, self.momentum)
        half = self.size // 2
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
            raw, Normalisation(*statistics, scale, bias, self.activation, self.epsilon, axis)
        )


class ConvNorm(_Layer):
    """A convolution without bias, batch normalisation, and an activation.

    The convolution pads half a kernel on every side, with a stride, too. Its kernel starts normal
    with variance 2 / fan-out (He et al., 2015, eq. 14). The normalisation is that of `BatchNorm`;
    evaluation folds it into the kernel. All is computed in the dtype of the maps that come in, sums
    and statistics in float32.

    Attributes:
      features: maps of the output.
      size: height and width of the kernel, odd.
      strides: down and across.
      activation: "relu" or "none".
      momentum: weight of the old value in the running averages.
      epsilon: added to the variance.
    """

    def __call__(
        self, x: Inputs | Pending, train: bool, residual: Outputs | None = None
    ) -> Outputs:
        """The layer's maps; with `train` set also moves the running averages.

        Args:
          x: maps, or what `PendingConvNorm` has handed on.
          train: whether the batch's own statistics normalise.
          residual: added in front of the activation.
        """
        maps = self._maps(x, train, residual)
        if not isinstance(maps, Pending):
            return maps
        return normalise(*maps, residual)


class PendingConvNorm(_Layer):
    """A `ConvNorm` whose maps one other such layer reads, and nothing else.

    In training their normalisation is left to that layer, which does it as it reads them.
    """

    def __call__(self, x: Inputs | Pending, train: bool) -> Outputs | Pending:
        """What to hand on; arguments as for `ConvNorm`."""
        return self._maps(x, train, None)
