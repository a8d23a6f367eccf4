"""Network in Network, for CIFAR-10.

Source: Lin, Chen and Yan (2014), "Network in network". Widths, windows and the deviation of the
first weights are those of the authors' own program (cuda-convnet, `NIN/cifar-10_def`), as the paper
does not print them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry
from dlcore.nn import backbone
from dlcore.nn.pooling import max_pool
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate, Real

# N(0, 0.05^2) for all weights; biases begin at 0.
WEIGHTS = nn.initializers.normal(0.05)


class MLPConv(nn.Module):
    """A multi-layer perceptron that is slid over the maps: a convolution, then 1x1 convolutions.

    Source: section 3.1, equation 2: every layer is rectified.

    Attributes:
      features: channels of each layer.
      kernel_size: height and width of the first layer's window.
      dtype: of the outputs.
    """

    features: tuple[int, ...]
    kernel_size: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch height width outputs"]:
        """The last layer's maps."""
        options: Any = {"dtype": self.dtype, "kernel_init": WEIGHTS}
        spatial, *others = self.features
        window = (self.kernel_size, self.kernel_size)
        x = nn.relu(nn.Conv(spatial, window, name="conv", **options)(x))
        for number, features in enumerate(others, start=1):
            x = nn.relu(nn.Conv(features, (1, 1), name=f"mlp{number}", **options)(x))
        return x


class NiN(nn.Module):
    """Three mlpconv layers; the last one has a map for each class, whose mean is the logit.

    The last layer's maps are rectified, too, as in the paper: no logit is negative, and a class
    whose map is zero on all images learns nothing from them. A short training needs maps that begin
    above zero, as Krizhevsky et al. (2012), section 5, let rectified layers begin.

    Attributes:
      num_classes: number of classes.
      dropout_rate: probability with which training drops a number between the mlpconv layers.
      logits_bias: where the biases of the last layer begin.
      dtype: float32 or bfloat16, of the layers' outputs; parameters and logits are float32.
    """

    num_classes: Positive = 10
    dropout_rate: Rate = 0.5
    logits_bias: Real = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 32x32.

        Raises:
          UsageError: the images are too small, or there is no such dtype.
        """
        backbone.require_size(x, 4, "nin")
        x = backbone.computing_in(self.dtype, x)
        x = MLPConv((192, 160, 96), 5, self.dtype, name="mlpconv1")(x)
        x = max_pool(backbone.stage(self, "stage1", x), (3, 3), (2, 2), "CEIL")
        x = Dropout(self.dropout_rate)(x, train)
        x = MLPConv((192, 192, 192), 5, self.dtype, name="mlpconv2")(x)
        x = max_pool(backbone.stage(self, "stage2", x), (3, 3), (2, 2), "CEIL")
        x = Dropout(self.dropout_rate)(x, train)
        # The third one's last layer, which is the classifier, stands by itself.
        x = MLPConv((192, 192), 3, self.dtype, name="mlpconv3")(x)
        x = backbone.stage(self, "stage3", x)
        backbone.stage(self, "pooled", x.astype(jnp.float32).mean((1, 2)))
        options: Any = {"dtype": self.dtype, "kernel_init": WEIGHTS, "name": "logits"}
        bias = nn.initializers.constant(self.logits_bias)
        maps = nn.relu(nn.Conv(self.num_classes, (1, 1), bias_init=bias, **options)(x))
        return maps.astype(jnp.float32).mean((1, 2))


registry.register(
    "nin_cifar",
    NiN,
    example_inputs=(jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=966_986,
    source="Lin, Chen and Yan (2014), section 4.2; the authors' NIN/cifar-10_def",
)
