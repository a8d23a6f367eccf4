"""SqueezeNet: fire modules, which squeeze the channels before they expand them.

Source: Iandola, Han, Moskewicz, Ashraf, Dally and Keutzer (2016), "SqueezeNet: AlexNet-level
accuracy with 50x fewer parameters and <0.5MB model size", table 1; version 1.1 is that of the
authors' own program (forresti/SqueezeNet), whose first convolution, as here, does not pad.

The paper does not say how weights begin. They are torchvision's: He et al.'s (2015) variance, and
N(0, 0.01^2) in the last layer. (The authors' program has half that variance, by which activations
fade from layer to layer, but for images in 0..255, as its are.)
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry
from dlcore.nn import backbone
from dlcore.nn.initializers import he
from dlcore.nn.pooling import max_pool
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate, Real


class Fire(nn.Module):
    """A 1x1 convolution to few channels; from these 1x1 and 3x3 ones, beside each other.

    Source: section 3.2 and figure 1. Each of the two expands four times.

    Attributes:
      squeezed: channels between the convolutions.
      dtype: of the outputs.
    """

    squeezed: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch height width 8*{self.squeezed}"]:
        """The module's output: first the channels of the 1x1 convolution."""
        options: Any = {"dtype": self.dtype, "kernel_init": he("uniform")}
        x = nn.relu(nn.Conv(self.squeezed, (1, 1), name="squeeze", **options)(x))
        features = 4 * self.squeezed
        narrow = nn.Conv(features, (1, 1), name="expand1x1", **options)(x)
        wide = nn.Conv(features, (3, 3), name="expand3x3", **options)(x)
        return nn.relu(jnp.concatenate([narrow, wide], axis=-1))


class SqueezeNet(nn.Module):
    """A convolution, eight fire modules, and a 1x1 convolution to a map for each class.

    A class's logit is the mean of its map, which is rectified: no logit is negative, and a class
    whose map is zero on all images learns nothing from them. A short training needs maps that begin
    above zero, as Krizhevsky et al. (2012), section 5, let rectified layers begin.

    Attributes:
      num_classes: number of classes.
      features: channels of the first convolution.
      kernel_size: of the first convolution, whose stride is 2.
      pool_after: numbers of the layers (the first convolution is 1, the fire modules are 2 to 9)
        that overlapping max pooling follows.
      dropout_rate: probability with which training drops a number before the last convolution.
      logits_bias: where the biases of the last convolution begin.
      dtype: float32 or bfloat16, of the layers' outputs; parameters and logits are float32.
    """

    num_classes: Positive = 1000
    features: Positive = 64
    kernel_size: Positive = 3
    pool_after: tuple[Positive, ...] = (1, 3, 5)
    dropout_rate: Rate = 0.5
    logits_bias: Real = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 224x224.

        Raises:
          UsageError: the images are too small, or there is no such dtype.
        """
        # Two positions are left for the last pooling.
        backbone.require_size(x, 14 + self.kernel_size, "squeezenet")
        x = backbone.computing_in(self.dtype, x)
        layer = functools.partial(nn.Conv, padding="VALID", dtype=self.dtype)
        window = (self.kernel_size, self.kernel_size)
        first = layer(self.features, window, strides=2, kernel_init=he("uniform"), name="conv1")
        x, stage = nn.relu(first(x)), 1
        for number in range(2, 10):
            if number - 1 in self.pool_after:
                x = backbone.stage(self, f"stage{stage}", x)
                x, stage = max_pool(x, (3, 3), (2, 2), "CEIL"), stage + 1
            x = Fire(16 * (number // 2), self.dtype, name=f"fire{number}")(x)
        x = backbone.stage(self, f"stage{stage}", x)
        backbone.stage(self, "pooled", x.astype(jnp.float32).mean((1, 2)))
        x = Dropout(self.dropout_rate)(x, train)
        start: Any = {
            "kernel_init": nn.initializers.normal(0.01),
            "bias_init": nn.initializers.constant(self.logits_bias),
        }
        last = layer(self.num_classes, (1, 1), name="logits", **start)
        return nn.relu(last(x)).astype(jnp.float32).mean((1, 2))


def _register(name: str, constructor: Any, size: int, parameter_count: int, source: str) -> None:
    registry.register(
        name,
        constructor,
        example_inputs=(jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),),
        output_shapes=(2, 1000),
        parameter_count=parameter_count,
        source=source,
    )


_register(
    "squeezenet1_0",
    functools.partial(SqueezeNet, features=96, kernel_size=7, pool_after=(1, 4, 8)),
    21,
    1_248_424,
    "Iandola et al. (2016), table 1",
)
_register(
    "squeezenet1_1",
    SqueezeNet,
    17,
    1_235_496,
    "Iandola et al. (2016), version 1.1 of the authors' program",
)
