"""A small convolutional network with batch normalization and dropout.

No paper's layout: it is the smallest network that has what modern ones have, batch statistics,
noise and convolutions without bias. It serves where a real network is too slow, above all in the
tests that hold every parallelism to the same parameters.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry
from dlcore.nn.normalization import BatchNorm
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate


class ConvNetBN(nn.Module):
    """3x3 convolutions of stride 2 with batch normalization and SiLU; average, dropout, logits.

    Attributes:
      num_classes: number of classes.
      features: channels of each convolution.
      dropout_rate: probability with which training drops an averaged channel.
    """

    num_classes: Positive = 10
    features: tuple[Positive, ...] = (16, 32)
    dropout_rate: Rate = 0.25

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images of any size."""
        for number, features in enumerate(self.features, start=1):
            # The normalization's own shift makes a bias before it redundant.
            x = nn.Conv(features, (3, 3), strides=2, use_bias=False, name=f"conv{number}")(x)
            # Smooth, for those tests: on a rectifier's kink, rounding decides about a gradient.
            x = nn.silu(BatchNorm(name=f"conv{number}_norm")(x, train))
        x = x.mean((1, 2))
        x = Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, name="logits")(x)


registry.register(
    "convnet_bn",
    ConvNetBN,
    example_inputs=(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=5_178,
    source="dlcore: the block of Ioffe and Szegedy (2015), twice, with SiLU and dropout",
)
