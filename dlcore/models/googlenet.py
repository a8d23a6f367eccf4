"""GoogLeNet, as published for ImageNet, in the layout of today's implementations, and for CIFAR-10.

Source: Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke and Rabinovich (2015), "Going
deeper with convolutions".

The paper leaves some things open. The constants of its local response normalization are AlexNet's
(Krizhevsky et al., 2012). A pooling's last window may reach over the edge, as in Caffe: so 112 rows
become 56. The kernels in front of a ReLU are initialized as in He et al. (2015), eq. 10: by the
older rules little is left of a signal after 22 layers without normalization.
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
from dlcore.nn.conv_norm import ConvNorm, Pending, PendingConvNorm
from dlcore.nn.geometry import Window, output_size
from dlcore.nn.initializers import he
from dlcore.nn.normalization import local_response_normalization
from dlcore.nn.pooling import adaptive_avg_pool, max_pool, sum_pool
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate

Images = Float[Array, "batch height width channels"]
Features = Float[Array, "batch height width features"]

# Table 1, a stage of one resolution each: channels of the 1x1 convolution, of the 3x3's bottleneck
# and of itself, of the 5x5's bottleneck and of itself, and of the projection of what is pooled.
TABLE = (
    {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64)},
    {
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
    },
    {"5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)},
)

# The same of the tutorial's network for CIFAR-10.
_CIFAR_TABLE = (
    {"1a": (16, 32, 32, 16, 8, 8), "1b": (24, 32, 48, 16, 12, 12)},
    {
        "2a": (24, 32, 48, 16, 12, 12),
        "2b": (16, 32, 48, 16, 16, 16),
        "2c": (16, 32, 48, 16, 16, 16),
        "2d": (32, 32, 48, 16, 24, 24),
    },
    {"3a": (32, 48, 64, 16, 16, 16), "3b": (32, 48, 64, 16, 16, 16)},
)


class Inception(nn.Module):
    """Convolutions of three sizes and a pooling beside each other (figure 2).

    Attributes:
      widths: channels of the convolutions, in the order of a row of `TABLE`.
      kernel_size: height and width of the third branch's kernel.
      epsilon: of the batch normalizations that stand in place of biases; 0 where there are none.
      bottlenecks: whether 1x1 convolutions reduce the channels that the larger ones read, and
        project those of the pooling (figure 2b). Without (2a) the larger ones read the module's
        input, and the pooling hands on all of its channels.
    """

    widths: tuple[int, ...]
    kernel_size: int = 5
    epsilon: float = 0.0
    bottlenecks: bool = True

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Features:
        """The branches' results beside each other; height and width are the input's."""
        first, second_reduced, second, third_reduced, third, projected = self.widths
        convolve = functools.partial(_convolve, train=train, epsilon=self.epsilon)
        for_second: Any = x
        for_third: Any = x
        pooled = max_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)))
        if self.bottlenecks:
            reduce = functools.partial(convolve, x, kernel_size=1, read_once=True)
            for_second = reduce("branch2_reduce", second_reduced)
            for_third = reduce("branch3_reduce", third_reduced)
            pooled = convolve(pooled, "branch4", projected, 1)
        branches = (
            convolve(x, "branch1", first, 1),
            convolve(for_second, "branch2", second, 3),
            convolve(for_third, "branch3", third, self.kernel_size),
            pooled,
        )
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryHead(nn.Module):
    """A classifier of features on the way, for training (section 5).

    Attributes:
      num_classes: number of classes.
      dropout_rate: probability with which training drops a unit of the hidden layer.
      adaptive: whether the pooling has as many windows as positions of its output, of any size and
        shape. Otherwise it is 5x5 with a stride of 3, which makes 4x4 of 14x14; where it would not
        make 4x4, the pooling is adaptive in any case.
      epsilon: as for `Inception`.
    """

    num_classes: int
    dropout_rate: float
    adaptive: bool = False
    epsilon: float = 0.0

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Float[Array, "batch {self.num_classes}"]:
        """Logits."""
        sizes = [output_size(length, Window(5, stride=3), "VALID") for length in x.shape[1:3]]
        if self.adaptive or sizes != [4, 4]:
            x = adaptive_avg_pool(x, (4, 4))
        else:
            x = (sum_pool(x.astype(jnp.float32), (5, 5), (3, 3)) / 25).astype(x.dtype)
        x = _convolve(x, "conv", 128, 1, train=train, epsilon=self.epsilon)
        hidden = nn.Dense(1024, dtype=x.dtype, kernel_init=he(), name="hidden")
        x = nn.relu(hidden(x.reshape(x.shape[0], -1)))
        x = Dropout(self.dropout_rate, name="dropout")(x, train)
        return nn.Dense(self.num_classes, name="logits")(x.astype(jnp.float32))


def _convolve(
    x: Images | Pending,
    name: str,
    features: int,
    kernel_size: int,
    strides: int = 1,
    *,
    train: bool,
    epsilon: float,
    read_once: bool = False,
) -> Any:
    """A convolution and ReLU, as a part of the module that calls it.

    Args:
      x: to convolve.
      name: of the part.
      features: channels of the output.
      kernel_size: height and width of the kernel.
      strides: vertical and horizontal.
      train: the mode.
      epsilon: of the batch normalization in between; 0 for a bias instead.
      read_once: whether another convolution of this kind is all that reads the result.
    """
    if epsilon:
        layer = PendingConvNorm if read_once else ConvNorm
        convolve = layer(
            features, kernel_size, strides, epsilon=epsilon, kernel_init=he(), name=name
        )
        return convolve(x, train)
    assert not isinstance(x, Pending)
    size = (kernel_size, kernel_size)
    padding = kernel_size // 2
    plain = nn.Conv(features, size, strides, padding, dtype=x.dtype, kernel_init=he(), name=name)
    return nn.relu(plain(x))


class GoogLeNet(nn.Module):
    """GoogLeNet (table 1).

    Attributes:
      num_classes: number of classes.
      auxiliary: whether classifiers behind the modules 4a and 4d help in training.
      batch_norm: the layout of today's implementations (torchvision's): batch normalization behind
        every convolution instead of biases and of the local response normalization, 3x3 kernels
        instead of 5x5, the last pooling by 2x2, that of the auxiliary classifiers adaptive.
      dropout_rate: probability with which training drops a number that the classifier reads.
      auxiliary_dropout_rate: the same of the hidden layers of the auxiliary classifiers.
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
    """

    num_classes: Positive = 1000
    auxiliary: bool = True
    batch_norm: bool = False
    dropout_rate: Rate = 0.4
    auxiliary_dropout_rate: Rate = 0.7
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Images, train: bool = False
    ) -> (
        Float[Array, "batch {self.num_classes}"]
        | tuple[Float[Array, "batch {self.num_classes}"], ...]
    ):
        """Logits of a batch of images, in the paper of 224x224.

        In training they are the first of three, where there are auxiliary classifiers; theirs
        follow, from the image on.

        Raises:
          UsageError: there is no such dtype, or nothing is left of the images.
        """
        backbone.require_size(x, 15 if self.batch_norm else 31, "this GoogLeNet")
        epsilon = 1e-3 if self.batch_norm else 0.0
        convolve = functools.partial(_convolve, train=train, epsilon=epsilon)
        x = convolve(backbone.computing_in(self.dtype, x), "conv1", 64, 7, 2)
        halve = functools.partial(max_pool, strides=(2, 2), padding="CEIL")
        x = self._normalize(halve(backbone.stage(self, "stem", x), (3, 3)))
        x = convolve(x, "conv2_reduce", 64, 1, read_once=True)
        x = backbone.stage(self, "stage1", self._normalize(convolve(x, "conv2", 192, 3)))
        heads: list[jax.Array] = []
        for stage, modules in enumerate(TABLE, start=2):
            x = halve(x, (2, 2) if self.batch_norm and stage == 4 else (3, 3))
            for name, widths in modules.items():
                kernel_size = 3 if self.batch_norm else 5
                x = Inception(widths, kernel_size, epsilon, name=f"inception{name}")(x, train)
                # Their parameters are there from the start, whatever the mode.
                if name in ("4a", "4d") and self.auxiliary and (train or self.is_initializing()):
                    heads.append(self._head(len(heads) + 1, epsilon)(x, train))
            x = backbone.stage(self, f"stage{stage}", x)
        pooled = backbone.stage(self, "pooled", x.astype(jnp.float32).mean((1, 2)))
        kept = Dropout(self.dropout_rate, name="dropout")(pooled, train)
        logits = nn.Dense(self.num_classes, name="logits")(kept)
        return (logits, *heads) if heads and train else logits

    def _normalize(self, x: Images) -> Images:
        if self.batch_norm:
            return x
        # Of a bfloat16 near 2 little is left for a sum of squares times 1e-4.
        return local_response_normalization(x.astype(jnp.float32)).astype(x.dtype)

    def _head(self, number: int, epsilon: float) -> AuxiliaryHead:
        return AuxiliaryHead(
            self.num_classes,
            self.auxiliary_dropout_rate,
            adaptive=self.batch_norm,
            epsilon=epsilon,
            name=f"auxiliary{number}",
        )


class CifarGoogLeNet(nn.Module):
    """A small network of inception modules for CIFAR-10, with batch normalization.

    Its convolutions have no biases, which normalization would take away: PyTorch's version of the
    tutorial has them (260,650 parameters), that in JAX does not; there, however, the fourth branch
    forgets to read what it has pooled, and the layout here is PyTorch's.

    Attributes:
      num_classes: number of classes.
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
    """

    num_classes: Positive = 10
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the tutorial of 32x32.

        Raises:
          UsageError: there is no such dtype.
        """
        x, epsilon = backbone.computing_in(self.dtype, x), 1e-5
        x = _convolve(x, "conv1", 64, 3, train=train, epsilon=epsilon)
        x = backbone.stage(self, "stem", x)
        for stage, modules in enumerate(_CIFAR_TABLE, start=1):
            if stage > 1:
                x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
            for name, widths in modules.items():
                x = Inception(widths, epsilon=epsilon, name=f"inception{name}")(x, train)
            x = backbone.stage(self, f"stage{stage}", x)
        pooled = backbone.stage(self, "pooled", x.astype(jnp.float32).mean((1, 2)))
        return nn.Dense(self.num_classes, name="logits")(pooled)


def _imagenet(name: str, constructor: Callable[..., nn.Module], parameter_count: int) -> None:
    registry.register(
        name,
        constructor,
        example_inputs=(jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32),),
        output_shapes=(2, 1000),
        training_output_shapes=((2, 1000),) * 3,
        parameter_count=parameter_count,
        source="Szegedy et al. (2015), table 1",
    )


_imagenet("googlenet", GoogLeNet, 13_378_280)
_imagenet(
    "googlenet_bn", functools.partial(GoogLeNet, batch_norm=True, dropout_rate=0.2), 13_004_888
)
registry.register(
    "uva_googlenet_cifar",
    CifarGoogLeNet,
    example_inputs=(jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=259_338,
    source="Lippe (2022), UvA deep learning tutorials, tutorial 5, GoogleNet",
)
