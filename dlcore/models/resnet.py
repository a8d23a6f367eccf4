"""Residual networks, as published for ImageNet and for CIFAR-10.

Source: He, Zhang, Ren and Sun (2016), "Deep residual learning for image recognition".

A block is ReLU(F(x) + x); one line of deck L adds the shortcut behind the ReLU. The kernels start
as He et al. (2015) have them, where deck K names Xavier.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn.conv_norm import ConvNorm, PendingConvNorm
from dlcore.nn.pooling import max_pool

Inputs = Float[Array, "batch height width inputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left).

    Attributes:
      width: maps of the convolutions.
      strides: of the first one and of the shortcut.
      projects: whether a shortcut that has to change its maps is a 1x1 convolution (option B);
        without, it leaves places out and has zeros for the maps that it lacks (option A).
    """

    width: int
    strides: int
    projects: bool

    @nn.compact
    def __call__(self, x: Inputs, train: bool) -> Outputs:
        """The block's maps."""
        finished = functools.partial(ConvNorm, self.width)
        pending = functools.partial(PendingConvNorm, self.width)
        shortcut = x
        if x.shape[-1] != self.width and self.projects:
            shortcut = finished(1, self.strides, "none", name="shortcut")(x, train)
        elif x.shape[-1] != self.width:
            # The paper does not say which maps are the new ones.
            new = self.width - x.shape[-1]
            shortcut = jnp.pad(x[:, :: self.strides, :: self.strides], [(0, 0)] * 3 + [(0, new)])
        first = pending(3, self.strides)(x, train)
        return finished(3)(first, train, shortcut)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last one four times as wide (figure 5, right).

    The stride is the 3x3 convolution's, as in the implementations that are compared today; the
    paper has it in the first 1x1 convolution. Shortcuts that change their maps are projections.

    Attributes:
      width: maps of the first two convolutions.
      strides: of the 3x3 convolution and of the shortcut.
    """

    width: int
    strides: int

    @nn.compact
    def __call__(self, x: Inputs, train: bool) -> Outputs:
        """The block's maps."""
        finished = functools.partial(ConvNorm, 4 * self.width, 1)
        pending = functools.partial(PendingConvNorm, self.width)
        shortcut = x
        if x.shape[-1] != 4 * self.width:
            shortcut = finished(self.strides, "none", name="shortcut")(x, train)
        first = pending(1)(x, train)
        second = pending(3, self.strides)(first, train)
        return finished()(second, train, shortcut)


class ResNet(nn.Module):
    """A residual network for ImageNet (table 1).

    Attributes:
      num_classes: number of classes.
      blocks: of each stage; every further stage halves the maps and doubles their number.
      bottleneck: whether the blocks have three convolutions instead of two.
      dtype: float32 or bfloat16, which the maps are computed in; parameters, statistics and logits
        are float32.
    """

    num_classes: int = 1000
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 224x224.

        Raises:
          UsageError: there is no such dtype.
        """
        block = BottleneckBlock if self.bottleneck else functools.partial(BasicBlock, projects=True)
        x = ConvNorm(64, 7, 2)(_as(self.dtype, x), train)
        x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return _stages(self, block, 64, x, train)


class CifarResNet(nn.Module):
    """A residual network for CIFAR-10 (section 4.2): three stages, shortcuts without parameters.

    Attributes:
      num_classes: number of classes.
      blocks: of each stage; every further stage halves the maps and doubles their number.
      dtype: float32 or bfloat16, which the maps are computed in; parameters, statistics and logits
        are float32.
    """

    num_classes: int = 10
    blocks: tuple[int, ...] = (3, 3, 3)
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 32x32.

        Raises:
          UsageError: there is no such dtype.
        """
        block = functools.partial(BasicBlock, projects=False)
        x = ConvNorm(16)(_as(self.dtype, x), train)
        return _stages(self, block, 16, x, train)


def _as(dtype: str, x: Array) -> Array:
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"a residual network computes in float32 or bfloat16, not {dtype!r}")
    return jnp.asarray(x, dtype)


def _stages(
    network: ResNet | CifarResNet,
    block: Callable[..., nn.Module],
    width: int,
    x: Inputs,
    train: bool,
) -> Float[Array, "batch classes"]:
    """What both networks share behind their first layer: blocks, average, logits."""
    for stage, count in enumerate(network.blocks):
        for place in range(count):
            strides = 2 if stage and not place else 1
            x = block(width * 2**stage, strides)(x, train)
    return nn.Dense(network.num_classes)(x.astype(jnp.float32).mean((1, 2)))


def _register(
    name: str, constructor: Callable[..., nn.Module], size: int, parameter_count: int, source: str
) -> None:
    registry.register(
        name,
        constructor,
        example_inputs=(jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),),
        output_shapes=(2, constructor().num_classes),
        parameter_count=parameter_count,
        source=f"He, Zhang, Ren and Sun (2016), {source}",
    )


def _imagenet(name: str, blocks: tuple[int, ...], bottleneck: bool, parameter_count: int) -> None:
    constructor: Any = functools.partial(ResNet, blocks=blocks, bottleneck=bottleneck)
    _register(name, constructor, 64, parameter_count, "table 1")


def _cifar(name: str, blocks: int, parameter_count: int) -> None:
    constructor: Any = functools.partial(CifarResNet, blocks=(blocks,) * 3)
    _register(name, constructor, 16, parameter_count, "section 4.2")


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
