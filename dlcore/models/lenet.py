"""LeNet-1, LeNet-4 and LeNet-5, as published, and LeNet-5 as it is taught today.

Source: LeCun, Bottou, Bengio and Haffner (1998), "Gradient-based learning applied to document
recognition", section II.B, figures 2 and 3, table I, for LeNet-5, and section III.C for the others.
LeNet-1 is in full in LeCun et al. (1990), "Handwritten digit recognition with a back-propagation
network", section 3.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn import backbone, normalization
from dlcore.nn.activations import scaled_tanh
from dlcore.nn.convolution import PartiallyConnectedConv, convolution
from dlcore.nn.initializers import uniform_by_fan_in
from dlcore.nn.pooling import TrainableSubsampling, max_pool
from dlcore.nn.regularization import Dropout, GaussianNoise
from dlcore.nn.units import squared_distances
from dlcore.ranges import NotNegative, Positive, Rate

# Table I: the channels of S2 that each channel of C3 sees. First three and four neighbors, then
# fours with a gap, then all six.
C3_TABLE = (
    *((i, (i + 1) % 6, (i + 2) % 6) for i in range(6)),
    *((i, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6) for i in range(6)),
    *((i, (i + 1) % 6, (i + 3) % 6, (i + 4) % 6) for i in range(3)),
    tuple(range(6)),
)

# LeCun et al. (1990), table 1: the maps of H2 that each map of H3 sees.
H3_TABLE = (
    *((0,), (0, 1), (0, 1), (1,), (0, 1), (0, 1)),
    *((2,), (2, 3), (2, 3), (3,), (2, 3), (2, 3)),
)

# LeNet-4's is not printed. Three maps for each make the "about 260,000 connections" of the paper.
LENET4_TABLE = (
    *((i, (i + 1) % 8, (i + 2) % 8) for i in range(8)),
    *((i, (i + 2) % 8, (i + 5) % 8) for i in range(8)),
)

# The output units' weights: the digits 0 to 9, 7 wide and 12 high, in the manner of figure 3.
_GLYPHS = """
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
..###.. ...##.. .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..###.. ##...## ##...## ...###. ##..... .##.... .....## ##...## ##...##
##...## .####.. .....## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. ....##. ..####. ##..##. ######. ######. ....##. .#####. ##...##
##...## ...##.. ...##.. .....## ##..##. .....## ##...## ...##.. ##...## .######
##...## ...##.. ..##... .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ...##.. .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ....##. ##...## ##...## ..##... ##...## ....##.
..###.. .###### ####### .#####. ....##. .#####. .#####. ..##... .#####. .####..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""


def digit_bitmaps() -> np.ndarray:
    """The ten digits as 7x12 bitmaps of -1 and +1, float32 `[10, 84]`, row by row."""
    rows = np.array([list(row) for row in _GLYPHS.split()]).reshape(12, 10, 7)
    return np.where(rows == "#", 1, -1).transpose(1, 0, 2).reshape(10, 84).astype(np.float32)


class LeNet1(nn.Module):
    """LeNet-1: two convolutions with their subsampling, then the output units.

    The layers carry the names of 1990. The paper squashes the output units, too, and takes their
    squared error; here their sums are the scores.

    Attributes:
      num_classes: number of classes.
    """

    num_classes: Positive = 10

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Scores of a batch of digits, of 16x16 pixels in the middle of 28x28.

        Raises:
          UsageError: the images have another shape.
        """
        del train
        _require_shape(x, (28, 28, 1), "lenet1")
        h1 = backbone.stage(self, "stage1", scaled_tanh(_conv(4, fan_in=25, name="H1")(x)))
        h2 = scaled_tanh(TrainableSubsampling(name="H2")(h1))
        h3 = scaled_tanh(PartiallyConnectedConv(H3_TABLE, (5, 5), name="H3")(h2))
        h3 = backbone.stage(self, "stage2", h3)
        h4 = scaled_tanh(TrainableSubsampling(name="H4")(h3)).reshape(-1, 192)
        return _dense(self.num_classes, 192, "output")(backbone.stage(self, "pooled", h4))


class LeNet4(nn.Module):
    """LeNet-4: LeNet-5 with fewer maps and one hidden layer, by the description of 1998.

    Two subsampling maps look at each of the first four maps. The 120 hidden units are connected to
    all of S4, as described: that alone takes 48,120 parameters, so that the "about 17,000" printed
    beside it cannot be this network's, whose connections are those printed. The layers are named
    after LeNet-5's; the scores are the output units' sums.

    Attributes:
      num_classes: number of classes.
    """

    num_classes: Positive = 10

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Scores of a batch of digits, centered in 32x32 pixels.

        Raises:
          UsageError: the images have another shape.
        """
        del train
        _require_shape(x, (32, 32, 1), "lenet4")
        c1 = backbone.stage(self, "stage1", scaled_tanh(_conv(4, fan_in=25, name="C1")(x)))
        s2 = scaled_tanh(TrainableSubsampling(name="S2")(jnp.repeat(c1, 2, axis=-1)))
        c3 = scaled_tanh(PartiallyConnectedConv(LENET4_TABLE, (5, 5), name="C3")(s2))
        c3 = backbone.stage(self, "stage2", c3)
        s4 = scaled_tanh(TrainableSubsampling(name="S4")(c3)).reshape(-1, 400)
        f5 = backbone.stage(self, "pooled", scaled_tanh(_dense(120, 400, "F5")(s4)))
        return _dense(self.num_classes, 120, "output")(f5)


class LeNet5(nn.Module):
    """LeNet-5 as published: trainable subsampling, partial connections, radial basis outputs.

    The layers carry the paper's names. An output unit's penalty is the squared distance between the
    84 units of F6 and the unit's bitmap (eq. 7); the scores are the penalties' negatives, so that
    they are read as logits are. Every layer up to F6 is squashed by 1.7159 tanh(2x/3).

    Attributes:
      num_classes: number of classes, at most the ten digits that have a bitmap.
    """

    num_classes: Positive = 10

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Scores of a batch of digits, centered in 32x32 pixels.

        Raises:
          UsageError: the images have another shape, or there are more than ten classes.
        """
        del train
        _require_shape(x, (32, 32, 1), "lenet5")
        if self.num_classes > 10:
            raise UsageError(f"lenet5 knows the ten digits, not {self.num_classes} classes")
        c1 = backbone.stage(self, "stage1", scaled_tanh(_conv(6, fan_in=25, name="C1")(x)))
        s2 = scaled_tanh(TrainableSubsampling(name="S2")(c1))
        c3 = scaled_tanh(PartiallyConnectedConv(C3_TABLE, (5, 5), name="C3")(s2))
        c3 = backbone.stage(self, "stage2", c3)
        s4 = scaled_tanh(TrainableSubsampling(name="S4")(c3))
        c5 = scaled_tanh(_conv(120, fan_in=400, name="C5")(s4)).reshape(-1, 120)
        f6 = backbone.stage(self, "pooled", scaled_tanh(_dense(84, 120, "F6")(c5)))
        bitmaps = jnp.asarray(digit_bitmaps()[: self.num_classes])
        return -squared_distances(f6, bitmaps)


def _conv(features: int, fan_in: int, name: str) -> nn.Conv:
    init = uniform_by_fan_in(fan_in)
    return nn.Conv(
        features,
        (5, 5),
        padding="VALID",
        kernel_init=init,
        bias_init=init,
        conv_general_dilated=convolution,
        name=name,
    )


def _dense(units: int, fan_in: int, name: str) -> nn.Dense:
    init = uniform_by_fan_in(fan_in)
    return nn.Dense(units, kernel_init=init, bias_init=init, name=name)


def _require_shape(images: jax.Array, shape: tuple[int, ...], name: str) -> None:
    if images.shape[1:] != shape:
        wanted = "x".join(map(str, shape))
        raise UsageError(f"{name} takes images of {wanted}, not {_by(images)}: pad or crop")


class LeNet5Modern(nn.Module):
    """LeNet-5 as it is taught today: ReLU, max pooling, full connections, softmax.

    The layers with parameters keep the paper's names but for the last one. The first convolution
    pads by two, which the paper's 32x32 input does by itself.

    Attributes:
      num_classes: number of classes.
      normalization: of the hidden units: none, batch, layer, group:GROUPS, and for the convolutions
        only local_response, subtractive, divisive or local_contrast.
      normalize: before or after the activation function.
      input_noise: standard deviation of the normal noise that training adds to the images.
      dropout_rate: probability with which training drops a unit of the two fully connected layers.
    """

    num_classes: Positive = 10
    normalization: str = "none"
    normalize: str = "before"
    input_noise: NotNegative = 0.0
    dropout_rate: Rate = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, of 28x28x1 for the published 61,706 parameters.

        Raises:
          UsageError: the images are smaller than 12x12, or an option is out of range.
        """
        if min(x.shape[1:3]) < 12:
            raise UsageError(f"lenet5_modern takes images of 12x12 or more, not {_by(x)}")
        options: dict[str, Any] = {
            "kernel_init": nn.initializers.he_normal(),
            "use_bias": not normalization.replaces_bias(self.normalization, self.normalize),
        }
        before, after = normalization.placed(self.normalization, self.normalize)
        x = GaussianNoise(self.input_noise)(jnp.asarray(x), train)
        convolutions = (
            nn.Conv(6, (5, 5), conv_general_dilated=convolution, name="C1", **options),
            nn.Conv(16, (5, 5), padding="VALID", name="C3", **options),
        )
        for number, layer in enumerate(convolutions, start=1):
            norm = f"{layer.name}_norm"
            x = after(nn.relu(before(layer(x), train, norm)), train, norm)
            x = max_pool(backbone.stage(self, f"stage{number}", x))
        x = x.reshape(x.shape[0], -1)
        if self.normalization in normalization.LOCAL:
            before = after = normalization.normalization("none")
        for name, units in (("C5", 120), ("F6", 84)):
            norm = f"{name}_norm"
            x = nn.Dense(units, name=name, **options)(x)
            x = after(nn.relu(before(x, train, norm)), train, norm)
            # F6's, which comes last, is the one that `collect` gives.
            x = Dropout(self.dropout_rate)(backbone.stage(self, "pooled", x), train)
        return nn.Dense(self.num_classes, name="logits")(x)


def _by(images: jax.Array) -> str:
    return "x".join(str(size) for size in images.shape[1:])


registry.register(
    "lenet1",
    LeNet1,
    example_inputs=(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=2_578,
    source="LeCun et al. (1990), section 3 and table 1",
)
registry.register(
    "lenet4",
    LeNet4,
    example_inputs=(jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=50_698,
    source="LeCun, Bottou, Bengio and Haffner (1998), section III.C",
)
registry.register(
    "lenet5",
    LeNet5,
    example_inputs=(jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=60_000,
    source="LeCun, Bottou, Bengio and Haffner (1998), figures 2 and 3, table I",
)
registry.register(
    "lenet5_modern",
    LeNet5Modern,
    example_inputs=(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=61_706,
    source="LeCun, Bottou, Bengio and Haffner (1998), with ReLU, max pooling and softmax",
)
