"""Softmax regression: multinomial logistic regression on the pixels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry


class SoftmaxRegression(nn.Module):
    """One affine map from the flattened image to the classes' logits.

    The weights start at zero: the loss is convex, and its first value is exactly log(num_classes).

    Attributes:
      num_classes: number of classes.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images of any shape."""
        del train
        pixels = x.reshape(x.shape[0], -1)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)(pixels)


registry.register(
    "softmax_regression",
    SoftmaxRegression,
    example_inputs=(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=7_850,
    source="lisa-lab, DeepLearningTutorials, logistic_sgd.py",
)
