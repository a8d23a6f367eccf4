"""Normalisation over the batch."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore import parallel


class BatchNorm(nn.Module):
    """Batch normalisation of the last axis's features, over the global batch and every other axis.

    Statistics are float32 and computed in two passes (the mean, then the squares about it: one pass
    cancels where the mean is large). Across devices they are sums through `parallel.psum`, so any
    number of devices gives what one gives. Training normalises by the biased variance of the batch
    and keeps a running average of the unbiased one, which evaluation uses.

    Source: Ioffe and Szegedy (2015), algorithms 1 and 2. That the running average is exponential,
    where they average over the last batches, is what implementations share.

    Attributes:
      momentum: weight of the old value in the running averages.
      epsilon: added to the variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "... features"], train: bool
    ) -> Float[Array, "... features"]:
        """Normalises, scales and shifts; with `train` set also moves the running averages."""
        features = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)

        wide = x.astype(jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            count = x.size // x.shape[-1] * parallel.axis_size()
            mean = parallel.psum(wide.sum(axes)) / count
            var = parallel.psum(jnp.square(wide - mean).sum(axes)) / count
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = _moved(running_mean.value, mean, self.momentum)
                running_var.value = _moved(running_var.value, unbiased, self.momentum)
        else:
            mean, var = running_mean.value, running_var.value
        normalized = (wide - mean) * (scale / jnp.sqrt(var + self.epsilon)) + bias
        return normalized.astype(x.dtype)


def _moved(
    average: Float[Array, " features"], value: Float[Array, " features"], momentum: float
) -> Float[Array, " features"]:
    return momentum * average + (1 - momentum) * value
