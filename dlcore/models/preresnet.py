"""Residual networks whose blocks normalize and activate before they convolve, narrow and wide.

Sources:

- He, Zhang, Ren and Sun (2016), "Identity mappings in deep residual networks", figure 4 (e). The
  paper's networks have 110 layers and more; `preresnet20_cifar` has the depth of the smallest one
  that its predecessor trains on CIFAR-10, and that one's shortcuts (option A);
- Zagoruyko and Komodakis (2016), "Wide residual networks": fewer layers of more channels;
- Lippe's notebooks of the University of Amsterdam, tutorial 5, for `uva_preresnet_cifar`: with a
  stride they pad behind the image alone, and their running averages are ten times as slow.

A block is F(x) + x, and nothing stands on the way from one block's sum to the next one's. Kernels
are initialized as in He et al. (2015), by the fan-out as in the first two sources' programs.
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
from dlcore.nn.conv_norm import (
    ConvNorm,
    Measured,
    MeasuredConv,
    Norm,
    Pending,
    PendingConvNorm,
    PendingNorm,
)
from dlcore.nn.regularization import Dropout, checked
from dlcore.ranges import Positive, Rate

Inputs = Float[Array, "batch height width inputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]

SHORTCUTS = ("zeros", "projection", "own_projection")


class PreActivationBlock(nn.Module):
    """Two times batch normalization, ReLU and a 3x3 convolution, and a shortcut.

    Attributes:
      features: channels of the convolutions.
      strides: of the first one and of the shortcut.
      shortcut: as for `PreResNet`.
      shares: whether the shortcut begins behind the first activation.
      dropout_rate: as for `PreResNet`.
    """

    features: int
    strides: int
    shortcut: str
    shares: bool
    dropout_rate: float

    @nn.compact
    def __call__(self, x: Inputs | Measured, train: bool) -> Outputs:
        """The block's output."""
        values = x.values if isinstance(x, Measured) else x
        active: Inputs | Pending
        if self.shares:
            active = values = Norm(name="norm1")(x, train)
        else:
            active = PendingNorm(name="norm1")(x, train)
        layer: Any = ConvNorm if self.dropout_rate else PendingConvNorm
        hidden = layer(self.features, 3, self.strides, name="conv1")(active, train)
        if self.dropout_rate:
            hidden = Dropout(self.dropout_rate, name="dropout")(hidden, train)
        branch = MeasuredConv(self.features, 3, name="conv2")(hidden, train).values

        new = self.features - values.shape[-1]
        if not new:
            return branch + values
        if self.shortcut == "zeros":
            kept = values[:, :: self.strides, :: self.strides]
            return branch + jnp.pad(kept, [(0, 0)] * 3 + [(0, new)])
        if self.shortcut == "own_projection":
            active = PendingNorm(name="shortcut_norm")(x, train)
        project = MeasuredConv(self.features, 1, self.strides, name="shortcut")
        return branch + project(active, train).values


class PreResNet(nn.Module):
    """A first convolution, stages of blocks, batch normalization, ReLU, average, logits.

    Attributes:
      num_classes: number of classes.
      blocks: of each stage; every further stage halves height and width and doubles the channels.
      width: channels of the first stage's blocks, as a multiple of 16.
      shortcut: what becomes of a block's input that has fewer channels than its output. zeros:
        positions are left out and new channels are zeros (option A). projection: a 1x1 convolution
        of what the block's first convolution reads. own_projection: the same behind a batch
        normalization and ReLU of its own (tutorial 5).
      activates_ends: whether the first block's shortcut begins behind its first activation, and the
        last block's sum is normalized and activated (He et al., appendix); not so in tutorial 5.
      dropout_rate: probability with which training drops a number between a block's convolutions,
        behind the activation (Zagoruyko and Komodakis, section 2.4).
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
      rematerialize: what a block computes is not kept for the gradient but computed again.
    """

    num_classes: Positive = 10
    blocks: tuple[Positive, ...] = (3, 3, 3)
    width: Positive = 1
    shortcut: str = "zeros"
    activates_ends: bool = True
    dropout_rate: Rate = 0.0
    dtype: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the papers of 32x32.

        Raises:
          UsageError: there is no such dtype or shortcut, or the rate is out of range.
        """
        if self.shortcut not in SHORTCUTS:
            raise UsageError(f"shortcut={self.shortcut!r}: it is one of {', '.join(SHORTCUTS)}")
        first = MeasuredConv(16, name="conv1")(backbone.computing_in(self.dtype, x), train)
        x = self._blocks(first._replace(values=backbone.stage(self, "stem", first.values)), train)
        pooled = backbone.stage(self, "pooled", x.astype(jnp.float32).mean((1, 2)))
        return nn.Dense(self.num_classes, name="logits")(pooled)

    def _blocks(self, x: Any, train: bool) -> Outputs:
        """All stages of the first convolution's result."""
        rate = checked("dropout_rate", self.dropout_rate)
        block = backbone.block(PreActivationBlock, self.rematerialize)
        last = len(self.blocks)
        for stage, count in enumerate(self.blocks, start=1):
            features = 16 * self.width * 2 ** (stage - 1)
            for number in range(count):
                strides = 2 if stage > 1 and not number else 1
                shares = self.activates_ends and stage == 1 and not number
                name = f"stage{stage}_block{number}"
                x = block(features, strides, self.shortcut, shares, rate, name=name)(x, train)
            if stage == last and self.activates_ends:
                x = Norm(name="norm")(x, train)
            x = backbone.stage(self, f"stage{stage}", x)
        return x


def _register(name: str, blocks: int, parameter_count: int, source: str, **options: Any) -> None:
    constructor: Any = functools.partial(PreResNet, blocks=(blocks,) * 3, **options)
    registry.register(
        name,
        constructor,
        example_inputs=(jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),),
        output_shapes=(2, 10),
        parameter_count=parameter_count,
        source=source,
    )


def _wide(name: str, blocks: int, width: int, parameter_count: int) -> None:
    source = "Zagoruyko and Komodakis (2016), table 1"
    _register(name, blocks, parameter_count, source, width=width, shortcut="projection")


_register("preresnet20_cifar", 3, 269_722, "He, Zhang, Ren and Sun (2016b), figure 4 (e)")
_wide("wrn16_8", 2, 8, 10_961_370)
_wide("wrn28_10", 4, 10, 36_479_194)
_wide("wrn40_4", 6, 4, 8_949_210)
_register(
    "uva_preresnet_cifar",
    3,
    272_250,
    "Lippe's tutorial 5, PreActResNet",
    shortcut="own_projection",
    activates_ends=False,
)
