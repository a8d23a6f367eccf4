"""Residual networks, as published for ImageNet and for CIFAR-10, and some of their variants.

Sources:

- He, Zhang, Ren and Sun (2016), "Deep residual learning for image recognition";
- Huang, Sun, Liu, Sedra and Weinberger (2016), "Deep networks with stochastic depth", whose
  program has means of 2x2 positions in the shortcuts where it is positions left out here;
- Zagoruyko and Komodakis (2016), "Wide residual networks", for `wrn50_2`;
- Lippe's notebooks of the University of Amsterdam, tutorial 5, for `uva_resnet_cifar`: with a
  stride they pad behind the image alone, and their running averages are ten times as slow.

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

from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn import backbone
from dlcore.nn.conv_norm import HE_FAN_OUT, ConvNorm, PendingConvNorm
from dlcore.nn.pooling import max_pool
from dlcore.nn.regularization import StochasticDepth, checked
from dlcore.ranges import Positive, Rate

Inputs = Float[Array, "batch height width inputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]

# What a shortcut is where the number of channels changes.
SHORTCUTS = ("zeros", "projection", "affine")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left).

    Attributes:
      features: channels of the convolutions.
      strides: of the first one and of the shortcut.
      shortcut: as for `CifarResNet`.
      drop_rate: probability with which training drops the convolutions (Huang et al., eq. 2 to 5).
    """

    features: int
    strides: int
    shortcut: str
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Inputs, train: bool) -> Outputs:
        """The block's output."""
        shortcut = _shortcut(self.shortcut, self.features, self.strides, x, train)
        first = PendingConvNorm(self.features, 3, self.strides, name="conv1")(x, train)
        if not self.drop_rate:
            return ConvNorm(self.features, 3, name="conv2")(first, train, shortcut)
        # The layer cannot add the shortcut: that stays when the rest is dropped.
        branch = ConvNorm(self.features, 3, activation="none", name="conv2")(first, train)
        depth = StochasticDepth(self.drop_rate, classic=True, name="depth")
        return nn.relu(depth(branch, train) + shortcut)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last one four times as wide (figure 5, right).

    The stride is the 3x3 convolution's, as in the implementations that are compared today; the
    paper has it in the first 1x1 convolution.

    Attributes:
      features: a quarter of the last convolution's channels.
      strides: of the 3x3 convolution and of the shortcut.
      shortcut: as for `CifarResNet`.
      width: channels of the first two convolutions, as a multiple of `features`.
    """

    features: int
    strides: int
    shortcut: str
    width: Positive = 1

    @nn.compact
    def __call__(self, x: Inputs, train: bool) -> Outputs:
        """The block's output."""
        outputs, inner = 4 * self.features, self.width * self.features
        shortcut = _shortcut(self.shortcut, outputs, self.strides, x, train)
        first = PendingConvNorm(inner, 1, name="conv1")(x, train)
        second = PendingConvNorm(inner, 3, self.strides, name="conv2")(first, train)
        return ConvNorm(outputs, 1, name="conv3")(second, train, shortcut)


class PoolingBlock(nn.Module):
    """A block that halves height and width by max pooling, as deck L prints it.

        z' = Conv(a),    a' = ReLU(z'),    z'' = MaxPool(a'),    a'' = ReLU(z'' + W a)

    The pooling stands where other blocks have their second convolution. That the shortcut is
    multiplied by W gives it the branch's channels; the deck does not say how it gets its height and
    width. Here W is a 1x1 convolution with the pooling's stride, that is option B's projection. The
    deck has no batch normalization, which here follows either convolution.

    Attributes:
      features: channels of the convolutions.
      strides: of the projection, and the size and the strides of the pooling's windows.
      drop_rate: as for `BasicBlock`.
    """

    features: int
    strides: int
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Inputs, train: bool) -> Outputs:
        """The block's output."""
        first = ConvNorm(self.features, 3, name="conv1")(x, train)
        pooled = max_pool(first, (self.strides, self.strides), padding="SAME")
        branch = StochasticDepth(self.drop_rate, classic=True, name="depth")(pooled, train)
        return ConvNorm(self.features, 1, self.strides, name="shortcut")(x, train, branch)


class ResNet(nn.Module):
    """A residual network for ImageNet (table 1).

    Attributes:
      num_classes: number of classes.
      blocks: of each stage; every further stage halves height and width and doubles the channels.
      bottleneck: whether the blocks have three convolutions instead of two.
      shortcut: as for `CifarResNet`.
      width: how many times as wide as the paper's the inner convolutions of a bottleneck are.
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
      rematerialize: what a block computes is not kept for the gradient but computed again.
    """

    num_classes: Positive = 1000
    blocks: tuple[Positive, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    shortcut: str = "projection"
    width: Positive = 1
    dtype: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 224x224.

        Raises:
          UsageError: there is no such dtype or shortcut, or nothing for the width to widen.
        """
        if self.width != 1 and not self.bottleneck:
            raise UsageError(f"width={self.width} widens bottlenecks, and bottleneck is false")
        bottleneck = backbone.block(BottleneckBlock, self.rematerialize)
        basic = backbone.block(BasicBlock, self.rematerialize)

        def block(features: int, strides: int, depth: float, name: str) -> Any:
            del depth
            if self.bottleneck:
                return bottleneck(features, strides, self.shortcut, self.width, name=name)
            return basic(features, strides, self.shortcut, name=name)

        x = ConvNorm(64, 7, 2, name="conv1")(backbone.computing_in(self.dtype, x), train)
        x = backbone.stage(self, "stem", x)
        x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return _stages(self, block, 64, x, train)


class CifarResNet(nn.Module):
    """A residual network for CIFAR-10 (section 4.2): three stages, shortcuts without parameters.

    Attributes:
      num_classes: number of classes.
      blocks: of each stage; every further stage halves height and width and doubles the channels.
      shortcut: what becomes of a block's input that has fewer channels than its output. zeros:
        positions are left out and new channels are zeros (option A). projection: a 1x1 convolution,
        batch normalization (option B). affine: a 1x1 convolution with a bias (tutorial 5).
      downsampling: by what a stage's first block halves height and width. strides: of its first
        convolution. max_pool: in the place of its second convolution, with a projection (deck L).
      stochastic_depth_rate: probability with which training drops the last block's convolutions;
        that of an earlier block is smaller in proportion to its number (Huang et al., 2016).
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
      rematerialize: what a block computes is not kept for the gradient but computed again.
    """

    num_classes: Positive = 10
    blocks: tuple[Positive, ...] = (3, 3, 3)
    shortcut: str = "zeros"
    downsampling: str = "strides"
    stochastic_depth_rate: Rate = 0.0
    dtype: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 32x32.

        Raises:
          UsageError: there is no such dtype, shortcut or downsampling, or the rate is out of range.
        """
        if self.downsampling not in ("strides", "max_pool"):
            raise UsageError(f"downsampling is strides or max_pool, not {self.downsampling!r}")
        last_rate = checked("stochastic_depth_rate", self.stochastic_depth_rate)
        basic = backbone.block(BasicBlock, self.rematerialize)
        pooling = backbone.block(PoolingBlock, self.rematerialize)

        def block(features: int, strides: int, depth: float, name: str) -> Any:
            if strides > 1 and self.downsampling == "max_pool":
                return pooling(features, strides, last_rate * depth, name=name)
            return basic(features, strides, self.shortcut, last_rate * depth, name=name)

        x = ConvNorm(16, name="conv1")(backbone.computing_in(self.dtype, x), train)
        x = backbone.stage(self, "stem", x)
        return _stages(self, block, 16, x, train)


def _shortcut(kind: str, features: int, strides: int, x: Inputs, train: bool) -> Outputs:
    """A block's input in the shape of its output, by layers of the block's."""
    if kind not in SHORTCUTS:
        raise UsageError(f"shortcut={kind!r}: it is one of {', '.join(SHORTCUTS)}")
    new = features - x.shape[-1]
    if not new:
        return x
    if kind == "zeros":
        # The paper does not say which channels are the new ones.
        return jnp.pad(x[:, ::strides, ::strides], [(0, 0)] * 3 + [(0, new)])
    if kind == "projection":
        return ConvNorm(features, 1, strides, "none", name="shortcut")(x, train)
    affine = nn.Conv(
        features, (1, 1), strides, kernel_init=HE_FAN_OUT, dtype=x.dtype, name="shortcut"
    )
    return affine(x)


def _stages(
    network: ResNet | CifarResNet,
    block: Callable[[int, int, float, str], Any],
    features: int,
    x: Inputs,
    train: bool,
) -> Float[Array, "batch classes"]:
    """The part that both networks share after their first layer: blocks, average, logits.

    A block is made for its channels, its strides, the share of all blocks up to it, and its name.
    """
    passed = 0
    for stage, count in enumerate(network.blocks):
        for number in range(count):
            strides = 2 if stage and not number else 1
            name = f"stage{stage + 1}_block{number}"
            passed += 1
            x = block(features * 2**stage, strides, passed / sum(network.blocks), name)(x, train)
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
        source=source,
    )


_HE = "He, Zhang, Ren and Sun (2016)"


def _imagenet(
    name: str,
    blocks: tuple[int, ...],
    parameter_count: int,
    source: str = f"{_HE}, table 1",
    **options: Any,
) -> None:
    constructor: Any = functools.partial(ResNet, blocks=blocks, **options)
    _register(name, constructor, parameter_count, 64, 1000, source)


def _cifar(
    name: str,
    blocks: int,
    parameter_count: int,
    source: str = f"{_HE}, section 4.2",
    **options: Any,
) -> None:
    constructor: Any = functools.partial(CifarResNet, blocks=(blocks,) * 3, **options)
    _register(name, constructor, parameter_count, 16, 10, source)


_imagenet("resnet18", (2, 2, 2, 2), 11_689_512, bottleneck=False)
_imagenet("resnet34", (3, 4, 6, 3), 21_797_672, bottleneck=False)
_imagenet("resnet50", (3, 4, 6, 3), 25_557_032)
_imagenet("resnet101", (3, 4, 23, 3), 44_549_160)
_imagenet("resnet152", (3, 8, 36, 3), 60_192_808)
_imagenet("wrn50_2", (3, 4, 6, 3), 68_883_240, "Zagoruyko and Komodakis (2016)", width=2)
_cifar("resnet20_cifar", 3, 269_722)
_cifar("resnet32_cifar", 5, 464_154)
_cifar("resnet44_cifar", 7, 658_586)
_cifar("resnet56_cifar", 9, 853_018)
_cifar("resnet110_cifar", 18, 1_727_962)
_cifar(
    "stochastic_depth110_cifar",
    18,
    1_727_962,
    "Huang, Sun, Liu, Sedra and Weinberger (2016), section 4",
    stochastic_depth_rate=0.5,
)
_cifar("uva_resnet_cifar", 3, 272_378, "Lippe's tutorial 5, ResNet", shortcut="affine")
