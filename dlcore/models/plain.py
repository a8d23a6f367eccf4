"""Residual networks' plain twins: the same convolutions without a shortcut.

He, Zhang, Ren and Sun (2016), "Deep residual learning for image recognition", train them to show
that depth alone does harm: plain-34 has a higher training error than its twin of 18 layers
(figure 4), and plain-56 than plain-20 (figure 1). Their shortcuts have no parameters there
(option A), so twins have the same number of parameters and of multiply-adds.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry
from dlcore.nn import backbone
from dlcore.nn.conv_norm import ConvNorm, PendingConvNorm
from dlcore.nn.pooling import max_pool
from dlcore.ranges import Positive


class PlainNetwork(nn.Module):
    """A first layer, stages of 3x3 convolutions, the average of each channel, logits.

    Every convolution is followed by batch normalization and ReLU; kernels are initialized as in He
    et al. (2015).

    Attributes:
      num_classes: number of classes.
      layers: convolutions of each stage; every further stage halves height and width by the strides
        of its first one, and doubles the channels.
      large_images: whether the first layer is ImageNet's, 64 kernels of 7x7 with a stride of 2 and
        max pooling (table 1), or CIFAR's, 16 kernels of 3x3 (section 4.2).
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
    """

    num_classes: Positive = 10
    layers: tuple[Positive, ...] = (6, 6, 6)
    large_images: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 224x224 or 32x32.

        Raises:
          UsageError: there is no such dtype.
        """
        features, size, strides = (64, 7, 2) if self.large_images else (16, 3, 1)
        x = backbone.computing_in(self.dtype, x)
        x = ConvNorm(features, size, strides, name="conv1")(x, train)
        x = backbone.stage(self, "stem", x)
        if self.large_images:
            x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, count in enumerate(self.layers, start=1):
            for number in range(1, count + 1):
                # A stage's result is read by anything, the others by the next convolution alone.
                layer: Any = ConvNorm if number == count else PendingConvNorm
                strides = 2 if stage > 1 and number == 1 else 1
                name = f"stage{stage}_conv{number}"
                x = layer(features * 2 ** (stage - 1), 3, strides, name=name)(x, train)
            x = backbone.stage(self, f"stage{stage}", x)
        pooled = backbone.stage(self, "pooled", x.astype(jnp.float32).mean((1, 2)))
        return nn.Dense(self.num_classes, name="logits")(pooled)


def _register(
    name: str, parameter_count: int, classes: int, size: int, source: str, **options: Any
) -> None:
    constructor: Any = functools.partial(PlainNetwork, num_classes=classes, **options)
    registry.register(
        name,
        constructor,
        example_inputs=(jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),),
        output_shapes=(2, classes),
        parameter_count=parameter_count,
        source=f"He, Zhang, Ren and Sun (2016), {source}",
    )


_register("plain20_cifar", 269_722, 10, 8, "section 4.2", layers=(6, 6, 6))
_register("plain56_cifar", 853_018, 10, 8, "section 4.2", layers=(18, 18, 18))
_register(
    "plain34", 21_623_848, 1000, 64, "figure 3, middle", layers=(6, 8, 12, 6), large_images=True
)
