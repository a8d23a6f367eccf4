"""Layers that are noise in training and nothing in evaluation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore import parallel
from dlcore.errors import UsageError


class Dropout(nn.Module):
    """Inverted dropout: in training each number is zero with probability `rate`, or else scaled up.

    What is left is divided by 1 - rate, so that evaluation is the identity. The noise comes from
    the rng named "dropout", keyed by each example's position in the global batch: it does not
    depend on the number of devices.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov (2014).

    Attributes:
      rate: probability of dropping, at least 0 and below 1.

    Raises:
      UsageError: the rate is out of range.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], train: bool) -> Float[Array, "batch ..."]:
        """Drops, where `train` is set; the first axis of `x` is the batch."""
        if not 0 <= self.rate < 1:
            raise UsageError(f"a dropout rate is at least 0 and below 1, not {self.rate}")
        if not train or self.rate == 0:
            return x
        keys = parallel.example_keys(self.make_rng("dropout"), x.shape[0])
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), 0)
