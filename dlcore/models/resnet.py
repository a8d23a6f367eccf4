"""Residual networks, as published for ImageNet and for CIFAR-10.

Source: He, Zhang, Ren and Sun (2016), "Deep residual learning for image recognition".

A block is ReLU(F(x) + x); one line of deck L adds the shortcut behind the ReLU. The kernels are
initialized as in He et al. (2015), where deck K names Xavier.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry
from dlcore.nn import backbone
from dlcore.nn.conv_norm import ConvNorm, PendingConvNorm
from dlcore.nn.pooling import max_pool

Inputs = Float[Array, "batch height width inputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left).

    Attributes:
      features: channels of the convolutions.
      strides: of the first one and of the shortcut.
      projects: whether a shortcut that has to change its number of channels is a 1x1 convolution
        (option B); otherwise it leaves positions out and fills new channels with zeros (option A).
    """

    features: int
    strides: int
    projects: bool

    @nn.compact
    def __call__(self, x: Inputs, train: bool) -> Outputs:
        """The block's output."""
        features, shortcut = self.features, x
        if x.shape[-1] != features and self.projects:
            project = ConvNorm(features, 1, self.strides, "none", name="shortcut")
            shortcut = project(x, train)
        elif x.shape[-1] != features:
            # The paper does not say which channels are the new ones.
            new = features - x.shape[-1]
            shortcut = jnp.pad(x[:, :: self.strides, :: self.strides], [(0, 0)] * 3 + [(0, new)])
        first = PendingConvNorm(features, 3, self.strides, name="conv1")(x, train)
        return ConvNorm(features, 3, name="conv2")(first, train, shortcut)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last one four times as wide (figure 5, right).

    The stride is the 3x3 convolution's, as in the implementations that are compared today; the
    paper has it in the first 1x1 convolution. A shortcut that has to change its number of channels
    is a projection.

    Attributes:
      features: channels of the first two convolutions.
      strides: of the 3x3 convolution and of the shortcut.
    """

    features: int
    strides: int

    @nn.compact
    def __call__(self, x: Inputs, train: bool) -> Outputs:
        """The block's output."""
        features, shortcut = self.features, x
        if x.shape[-1] != 4 * features:
            project = ConvNorm(4 * features, 1, self.strides, "none", name="shortcut")
            shortcut = project(x, train)
        first = PendingConvNorm(features, 1, name="conv1")(x, train)
        second = PendingConvNorm(features, 3, self.strides, name="conv2")(first, train)
        return ConvNorm(4 * features, 1, name="conv3")(second, train, shortcut)


class ResNet(nn.Module):
    """A residual network for ImageNet (table 1).

    Attributes:
      num_classes: number of classes.
      blocks: of each stage; every further stage halves height and width and doubles the channels.
      bottleneck: whether the blocks have three convolutions instead of two.
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
      rematerialize: what a block computes is not kept for the gradient but computed again.
    """

    num_classes: int = 1000
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    dtype: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 224x224.

        Raises:
          UsageError: there is no such dtype.
        """
        if self.bottleneck:
            block: Any = backbone.block(BottleneckBlock, self.rematerialize)
        else:
            basic = backbone.block(BasicBlock, self.rematerialize)
            block = functools.partial(basic, projects=True)
        x = ConvNorm(64, 7, 2, name="conv1")(backbone.computing_in(self.dtype, x), train)
        x = backbone.stage(self, "stem", x)
        x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return _stages(self, block, 64, x, train)


class CifarResNet(nn.Module):
    """A residual network for CIFAR-10 (section 4.2): three stages, shortcuts without parameters.

    Attributes:
      num_classes: number of classes.
      blocks: of each stage; every further stage halves height and width and doubles the channels.
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
      rematerialize: what a block computes is not kept for the gradient but computed again.
    """

    num_classes: int = 10
    blocks: tuple[int, ...] = (3, 3, 3)
    dtype: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 32x32.

        Raises:
          UsageError: there is no such dtype.
        """
        basic = backbone.block(BasicBlock, self.rematerialize)
        block = functools.partial(basic, projects=False)
        x = ConvNorm(16, name="conv1")(backbone.computing_in(self.dtype, x), train)
        x = backbone.stage(self, "stem", x)
        return _stages(self, block, 16, x, train)


def _stages(
    network: ResNet | CifarResNet,
    block: Callable[..., nn.Module],
    features: int,
    x: Inputs,
    train: bool,
) -> Float[Array, "batch classes"]:
    """The part that both networks share after their first layer: blocks, average, logits."""
    for stage, count in enumerate(network.blocks):
        for number in range(count):
            strides = 2 if stage and not number else 1
            name = f"stage{stage + 1}_block{number}"
            x = block(features * 2**stage, strides, name=name)(x, train)
        x = backbone.stage(network, f"stage{stage + 1}", x)
    pooled = backbone.stage(network, "pooled", x.astype(jnp.float32).mean((1, 2)))
    return nn.Dense(network.num_classes, name="logits")(pooled)


def _register(
    name: str,
    constructor: Callable[..., nn.Module],
    parameter_count: int,
    size: int,
    classes: int,
    source: str,
) -> None:
    registry.register(
        name,
        constructor,
        example_inputs=(jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),),
        output_shapes=(2, classes),
        parameter_count=parameter_count,
        source=f"He, Zhang, Ren and Sun (2016), {source}",
    )


def _imagenet(name: str, blocks: tuple[int, ...], bottleneck: bool, parameter_count: int) -> None:
    constructor: Any = functools.partial(ResNet, blocks=blocks, bottleneck=bottleneck)
    _register(name, constructor, parameter_count, 64, 1000, "table 1")


def _cifar(name: str, blocks: int, parameter_count: int) -> None:
    constructor: Any = functools.partial(CifarResNet, blocks=(blocks,) * 3)
    _register(name, constructor, parameter_count, 16, 10, "section 4.2")


_imagenet("resnet18", (2, 2, 2, 2), False, 11_689_512)
_imagenet("resnet34", (3, 4, 6, 3), False, 21_797_672)
_imagenet("resnet50", (3, 4, 6, 3), True, 25_557_032)
_imagenet("resnet101", (3, 4, 23, 3), True, 44_549_160)
_imagenet("resnet152", (3, 8, 36, 3), True, 60_192_808)
_cifar("resnet20_cifar", 3, 269_722)
_cifar("resnet32_cifar", 5, 464_154)
_cifar("resnet44_cifar", 7, 658_586)
_cifar("resnet56_cifar", 9, 853_018)
_cifar("resnet110_cifar", 18, 1_727_962)
