"""Densely connected networks, as published for ImageNet and for CIFAR-10.

Source: Huang, Liu, van der Maaten and Weinberger (2017), "Densely connected convolutional
networks".

Each layer reads what all layers of its block before it have written, normalized anew. The batch's
statistics of a channel do not depend on who reads it: they are gathered once, by the convolution
that writes it where nothing stands between. Where the insides of layers are not kept, neither is
what they read, so that memory grows with the depth and not with its square (Pleiss et al., 2017).

The kernels are initialized as in He et al. (2015), eq. 10; the paper does not say whether it means
this one, by fan-in, or that by fan-out.
"""

import functools
import math
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry
from dlcore.nn import backbone
from dlcore.nn.conv_norm import (
    ConvNorm,
    Measured,
    MeasuredConv,
    Norm,
    PendingNorm,
    concatenate,
    measure,
)
from dlcore.nn.initializers import he
from dlcore.nn.pooling import max_pool, sum_pool
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Natural, Positive, Range, Rate

Images = Float[Array, "batch height width channels"]


class DenseLayer(nn.Module):
    """Normalization, ReLU and a 3x3 convolution; with a bottleneck the same by 1x1 before it.

    Attributes:
      growth_rate: channels that it adds.
      bottleneck: channels of the 1x1 convolution, in growth rates; 0 for none.
      dropout_rate: probability with which training drops a number behind either convolution.
    """

    growth_rate: int
    bottleneck: int
    dropout_rate: float

    @nn.compact
    def __call__(self, parts: tuple[Measured, ...], train: bool) -> Measured:
        """The channels that it adds to `parts`, the results of the layers before it."""
        # Beside each other only here, within what may be computed again.
        x, rate = concatenate(parts), self.dropout_rate
        if self.bottleneck:
            x = _convolve(x, train, self.bottleneck * self.growth_rate, 1, rate, "1")
        last = "2" if self.bottleneck else "1"
        return _convolve(x, train, self.growth_rate, 3, rate, last)


class Transition(nn.Module):
    """Normalization, ReLU, a 1x1 convolution and 2x2 average pooling.

    Attributes:
      features: channels of the output.
      dropout_rate: probability with which training drops a number behind the convolution.
    """

    features: int
    dropout_rate: float

    @nn.compact
    def __call__(self, x: Measured, train: bool) -> Measured:
        """Half the height and width; an odd last row or column is left out."""
        y = _convolve(x, train, self.features, 1, self.dropout_rate)
        means = sum_pool(y.values.astype(jnp.float32)) / 4
        return measure(means.astype(y.values.dtype), train)


def _convolve(
    x: Measured,
    train: bool,
    features: int,
    kernel_size: int,
    dropout_rate: float,
    number: str = "",
) -> Measured:
    """Normalization, ReLU, a convolution and dropout, as parts of the module that calls it."""
    normalized = PendingNorm(name=f"norm{number}")(x, train)
    convolve = MeasuredConv(features, kernel_size, kernel_init=he(), name=f"conv{number}")
    y = convolve(normalized, train)
    if not dropout_rate:
        return y
    dropped = Dropout(dropout_rate, name=f"dropout{number}")(y.values, train)
    return measure(dropped, train)


class DenseNet(nn.Module):
    """A DenseNet: for ImageNet (table 1), or for CIFAR-10 (section 3, implementation details).

    Its stages are the dense blocks' results, the last one normalized and rectified.

    Attributes:
      num_classes: number of classes.
      blocks: layers of each dense block; between two blocks height and width are halved.
      growth_rate: channels that a layer adds.
      bottleneck: channels of the 1x1 convolution in front of each 3x3 one, in growth rates; 0 for
        none. With one the first convolution has twice the growth rate of channels, else 16.
      compression: share of the channels that is left between two blocks, above 0.
      dropout_rate: probability with which training drops a number behind each convolution but the
        first; for CIFAR-10 without augmentation it is 0.2.
      reduces_first: whether a 7x7 convolution and a pooling make a quarter of height and width
        before the first block; otherwise, for small images, a 3x3 convolution leaves them.
      stem_bias: whether that convolution has a bias. All that reads it takes its mean away again:
        it is there for a layout that has it.
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
      rematerialize: what a layer computes is not kept for the gradient but computed again.
    """

    num_classes: Positive = 1000
    blocks: tuple[Natural, ...] = (6, 12, 24, 16)
    growth_rate: Positive = 32
    bottleneck: Natural = 4
    compression: Annotated[float, Range(above=0, most=1)] = 0.5
    dropout_rate: Rate = 0.0
    reduces_first: bool = True
    stem_bias: bool = False
    dtype: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 224x224 or 32x32.

        Raises:
          UsageError: there is no such dtype, an option is out of range, or nothing is left of the
            images.
        """
        halvings = 2 ** (len(self.blocks) - 1)
        least = 4 * halvings - 3 if self.reduces_first else halvings
        backbone.require_size(x, least, "this DenseNet")
        block = self._stem(backbone.computing_in(self.dtype, x), train)
        for stage, count in enumerate(self.blocks, start=1):
            block = self._block(block, stage, count, train)
            if stage < len(self.blocks):
                backbone.stage(self, f"stage{stage}", block.values)
                kept = math.floor(self.compression * block.values.shape[-1])
                reduce = Transition(kept, self.dropout_rate, name=f"transition{stage}")
                block = reduce(block, train)
        last = backbone.stage(self, f"stage{len(self.blocks)}", Norm(name="norm")(block, train))
        pooled = backbone.stage(self, "pooled", last.astype(jnp.float32).mean((1, 2)))
        return nn.Dense(self.num_classes, name="logits")(pooled)

    def _stem(self, x: Images, train: bool) -> Measured:
        """What the first block reads."""
        features = 2 * self.growth_rate if self.bottleneck else 16
        options: dict[str, Any] = {"kernel_init": he(), "name": "conv0"}
        if self.reduces_first:
            convolve = ConvNorm(features, 7, 2, use_bias=self.stem_bias, **options)
            x = backbone.stage(self, "stem", convolve(x, train))
            return measure(max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), train)
        if self.stem_bias:
            stem = measure(nn.Conv(features, (3, 3), dtype=x.dtype, **options)(x), train)
        else:
            stem = MeasuredConv(features, **options)(x, train)
        backbone.stage(self, "stem", stem.values)
        return stem

    def _block(self, x: Measured, stage: int, count: int, train: bool) -> Measured:
        layer = backbone.block(DenseLayer, self.rematerialize)
        options = self.growth_rate, self.bottleneck, self.dropout_rate
        parts = [x]
        for number in range(count):
            name = f"stage{stage}_layer{number}"
            parts.append(layer(*options, name=name)(tuple(parts), train))
        return concatenate(parts)


def _register(
    name: str,
    parameter_count: int,
    size: int = 64,
    source: str = "Huang, Liu, van der Maaten and Weinberger (2017), table 1",
    **options: Any,
) -> None:
    registry.register(
        name,
        functools.partial(DenseNet, **options),
        example_inputs=(jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),),
        output_shapes=(2, options.get("num_classes", 1000)),
        parameter_count=parameter_count,
        source=source,
    )


def _cifar(
    name: str,
    parameter_count: int,
    source: str = "Huang, Liu, van der Maaten and Weinberger (2017), table 2",
    **options: Any,
) -> None:
    options = {"num_classes": 10, "growth_rate": 12, "reduces_first": False} | options
    _register(name, parameter_count, 16, source, **options)


_register("densenet121", 7_978_856)
_register("densenet161", 28_681_000, blocks=(6, 12, 36, 24), growth_rate=48)
_register("densenet169", 14_149_480, blocks=(6, 12, 32, 32))
_register("densenet201", 20_013_928, blocks=(6, 12, 48, 32))
_cifar("densenet40_12_cifar", 1_019_722, blocks=(12, 12, 12), bottleneck=0, compression=1.0)
_cifar("densenet100_12_cifar", 6_979_642, blocks=(32, 32, 32), bottleneck=0, compression=1.0)
_cifar("densenet_bc100_12_cifar", 769_162, blocks=(16, 16, 16))
_cifar(
    "uva_densenet_cifar",
    239_146,
    source="Lippe (2022), UvA deep learning tutorials, tutorial 5 (JAX), DenseNet",
    blocks=(6, 6, 6, 6),
    growth_rate=16,
    bottleneck=2,
    stem_bias=True,
)
