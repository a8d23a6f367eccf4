"""Rosenblatt's perceptron: a single layer of threshold units.

Source: Rosenblatt (1958), "The perceptron: a probabilistic model for information storage and
organization in the brain". `dlcore.tasks.perceptron` has its learning rule.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry
from dlcore.nn.units import with_constant_input
from dlcore.ranges import Positive


class Perceptron(nn.Module):
    """Weighted sums of the inputs, one a unit; `respond` applies the threshold.

    Two classes take one unit, more classes one unit each. The threshold is the weight of a constant
    input of 1, the last row of `weights` [inputs + 1, units]. All weights start at zero.

    Attributes:
      num_classes: number of classes.
    """

    num_classes: Positive = 10

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], train: bool = False
    ) -> Float[Array, "batch units"]:
        """The units' weighted sums for a batch of inputs of any shape."""
        del train
        x = with_constant_input(jnp.asarray(x).reshape(x.shape[0], -1))
        units = 1 if self.num_classes == 2 else self.num_classes
        return x @ self.param("weights", nn.initializers.zeros, (x.shape[1], units), jnp.float32)


def respond(sums: Float[Array, "batch units"]) -> Float[Array, "batch units"]:
    """The units' answers, 0 or 1.

    A single unit fires above zero; of several the one with the largest sum fires, or the first of
    those that tie. Where a sum is NaN, so are the answers.
    """
    if sums.shape[1] == 1:
        answers = (sums > 0).astype(sums.dtype)
    else:
        answers = jax.nn.one_hot(sums.argmax(1), sums.shape[1], dtype=sums.dtype)
    return jnp.where(jnp.isnan(sums).any(1, keepdims=True), jnp.nan, answers)


registry.register(
    "perceptron",
    Perceptron,
    example_inputs=(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=7_850,
    source="Rosenblatt (1958)",
)
