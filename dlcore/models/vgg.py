"""VGG: stacks of 3x3 convolutions, with and without batch normalization.

Source: Simonyan and Zisserman (2015), "Very deep convolutional networks for large-scale image
recognition", table 1, configurations A, B, D and E. With batch normalization, which came later, the
layout is torchvision's. `vgg_cifar` is a network of this kind that two cores can train: an image of
32x32 takes 39 million multiply-adds.

The kernels are drawn as in Glorot and Bengio (2010), eq. 16: by section 3.1 every depth can be
trained from them, where the paper's own runs had to start from a shallower network's weights.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn import backbone
from dlcore.nn.conv_norm import ConvNorm, PendingConvNorm
from dlcore.nn.initializers import glorot
from dlcore.nn.pooling import adaptive_avg_pool, max_pool
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate

Maps = Float[Array, "batch height width features"]


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each ended by 2x2 max pooling; hidden layers; logits.

    Attributes:
      num_classes: number of classes.
      convolutions: of each stage.
      features: channels of the convolutions of each stage.
      grid: rows and columns of the cells to which the last maps are averaged, for the first fully
        connected layer; images of the published size have as many by themselves.
      hidden: units of each hidden layer.
      batch_norm: whether every convolution is normalized; it keeps its bias, which then has no
        effect and no gradient.
      dropout_rate: probability with which training drops a hidden unit.
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
    """

    num_classes: Positive = 1000
    convolutions: tuple[Positive, ...] = (2, 2, 3, 3, 3)
    features: tuple[Positive, ...] = (64, 128, 256, 512, 512)
    grid: Positive = 7
    hidden: tuple[Positive, ...] = (4096, 4096)
    batch_norm: bool = False
    dropout_rate: Rate = 0.5
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 224x224.

        Raises:
          UsageError: the images are too small, a stage lacks one of its numbers, or there is no
            such dtype.
        """
        if len(self.convolutions) != len(self.features):
            raise UsageError(
                "vgg has a number of convolutions and one of features for each stage, "
                f"not {len(self.convolutions)} and {len(self.features)} of them"
            )
        backbone.require_size(x, 2 ** len(self.features), "vgg")
        x = backbone.computing_in(self.dtype, x)
        stages = zip(self.convolutions, self.features, strict=True)
        for number, (convolutions, features) in enumerate(stages, start=1):
            x = self._stage(number, x, train, convolutions, features)
            x = max_pool(backbone.stage(self, f"stage{number}", x))
        x = adaptive_avg_pool(x, (self.grid, self.grid)).reshape(x.shape[0], -1)
        dense = functools.partial(nn.Dense, kernel_init=glorot("uniform"))
        for number, units in enumerate(self.hidden):
            if number:
                x = Dropout(self.dropout_rate)(x, train)
            x = nn.relu(dense(units, dtype=self.dtype, name=f"hidden{number}")(x))
        x = Dropout(self.dropout_rate)(backbone.stage(self, "pooled", x), train)
        return dense(self.num_classes, name="logits")(x.astype(jnp.float32))

    def _stage(self, stage: int, x: Any, train: bool, convolutions: int, features: int) -> Maps:
        """Rectified convolutions, each read by the next one alone, but for the last."""
        for number in range(1, convolutions + 1):
            options: Any = {"kernel_init": glorot("uniform"), "name": f"conv{stage}_{number}"}
            if self.batch_norm:
                layer = PendingConvNorm if number < convolutions else ConvNorm
                x = layer(features, use_bias=True, **options)(x, train)
            else:
                x = nn.relu(nn.Conv(features, (3, 3), dtype=self.dtype, **options)(x))
        return x


def _register(
    name: str,
    parameter_count: int,
    source: str,
    convolutions: tuple[int, ...],
    size: int = 32,
    num_classes: Positive = 1000,
    batch_norm: bool = False,
    **options: Any,
) -> None:
    normalized = [
        f"conv{stage}_{number}"
        for stage, own in enumerate(convolutions, start=1)
        for number in range(1, own + 1)
        if batch_norm
    ]
    registry.register(
        name,
        functools.partial(
            VGG,
            num_classes=num_classes,
            convolutions=convolutions,
            batch_norm=batch_norm,
            **options,
        ),
        example_inputs=(jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),),
        output_shapes=(2, num_classes),
        parameter_count=parameter_count,
        source=source,
        without_gradient={
            f"{layer}/conv_bias": "the normalization subtracts it with the mean"
            for layer in normalized
        },
    )


def _imagenet(
    name: str, configuration: str, convolutions: tuple[int, ...], plain: int, normalized: int
) -> None:
    source = f"Simonyan and Zisserman (2015), table 1, {configuration}"
    _register(name, plain, source, convolutions)
    source += ", with torchvision's batch normalization"
    _register(f"{name}_bn", normalized, source, convolutions, batch_norm=True)


_imagenet("vgg11", "A", (1, 1, 2, 2, 2), 132_863_336, 132_868_840)
_imagenet("vgg13", "B", (2, 2, 2, 2, 2), 133_047_848, 133_053_736)
_imagenet("vgg16", "D", (2, 2, 3, 3, 3), 138_357_544, 138_365_992)
_imagenet("vgg19", "E", (2, 2, 4, 4, 4), 143_667_240, 143_678_248)
_register(
    "vgg_cifar",
    551_466,
    "Simonyan and Zisserman (2015), with Brownlee's (2019) three stages for CIFAR-10",
    (2, 2, 2),
    size=8,
    num_classes=10,
    features=(32, 64, 128),
    grid=4,
    hidden=(128,),
    batch_norm=True,
)
