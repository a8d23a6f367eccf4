"""AlexNet: the two towers of 2012, and the single one of 2014.

Sources: Krizhevsky, Sutskever and Hinton (2012), "ImageNet classification with deep convolutional
neural networks", section 3 and figure 2; Krizhevsky (2014), "One weird trick for parallelizing
convolutional neural networks", in torchvision's layout.

A tower, which in the paper is a GPU, is a group of channels here. Images are 227x227: with the 224
that the paper prints, its own 55x55 positions do not come out. Evaluation in the paper halves what
dropout has left whole; here training doubles it (see `dlcore.nn.regularization`), which is the same
network. The paper's noise along the principal axes of color is an augmentation, `pca_color` in
`dlcore.data.augmentation`.
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
from dlcore.nn.normalization import local_response_normalization
from dlcore.nn.pooling import adaptive_avg_pool, max_pool
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate


class AlexNet(nn.Module):
    """Five convolutions and two hidden layers, all rectified; overlapping max pooling; dropout.

    Weights are drawn from N(0, 0.01^2). Biases are 1 in the second, fourth and fifth convolution
    and in the hidden layers, so that rectifiers begin in their linear part, and 0 elsewhere. (The
    paper's images are pixels of 0..255 less their mean. Beside the biases, numbers near 1 say
    little at first.) An image of another size than the published one is pooled to the 6x6 positions
    that the hidden layers read.

    Attributes:
      num_classes: number of classes.
      features: channels of each convolution, of both towers together.
      hidden: units of each of the two hidden layers.
      one_tower: the layout of 2014 (with 224x224 pixels): every convolution sees all channels, the
        first one pads by two, and nothing is normalized. Torchvision drops the inputs of the hidden
        layers there, this network their outputs, as the paper of 2012.
      dropout_rate: probability with which training drops a hidden unit.
      dtype: float32 or bfloat16, of the layers' outputs; parameters and logits are float32.
    """

    num_classes: Positive = 1000
    features: tuple[Positive, ...] = (96, 256, 384, 384, 256)
    hidden: Positive = 4096
    one_tower: bool = False
    dropout_rate: Rate = 0.5
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 227x227.

        Raises:
          UsageError: the images are too small, there are not five numbers of features, or there is
            no such dtype.
        """
        if len(self.features) != 5:
            raise UsageError(f"alexnet has features for 5 convolutions, not for {self.features}")
        backbone.require_size(x, 63 if self.one_tower else 67, "alexnet")
        x = backbone.computing_in(self.dtype, x)
        options: Any = {"dtype": self.dtype, "kernel_init": nn.initializers.normal(0.01)}
        ones = options | {"bias_init": nn.initializers.ones}
        grouped = ones | {"feature_group_count": 1 if self.one_tower else 2}
        normalize = (lambda x: x) if self.one_tower else local_response_normalization
        pool = functools.partial(max_pool, window=(3, 3), strides=(2, 2))
        conv1, conv2, conv3, conv4, conv5 = self.features

        edge = 2 if self.one_tower else 0
        x = nn.relu(nn.Conv(conv1, (11, 11), 4, edge, name="conv1", **options)(x))
        x = pool(backbone.stage(self, "stage1", normalize(x)))
        x = nn.relu(nn.Conv(conv2, (5, 5), name="conv2", **grouped)(x))
        x = pool(backbone.stage(self, "stage2", normalize(x)))
        x = nn.relu(nn.Conv(conv3, (3, 3), name="conv3", **options)(x))
        x = nn.relu(nn.Conv(conv4, (3, 3), name="conv4", **grouped)(x))
        x = nn.relu(nn.Conv(conv5, (3, 3), name="conv5", **grouped)(x))
        x = pool(backbone.stage(self, "stage3", x))
        x = adaptive_avg_pool(x, (6, 6)).reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(self.hidden, name="hidden0", **ones)(x))
        x = Dropout(self.dropout_rate)(x, train)
        x = nn.relu(nn.Dense(self.hidden, name="hidden1", **ones)(x))
        x = Dropout(self.dropout_rate)(backbone.stage(self, "pooled", x), train)
        logits = nn.Dense(self.num_classes, kernel_init=options["kernel_init"], name="logits")
        return logits(x.astype(jnp.float32))


def _register(name: str, constructor: Any, size: int, parameter_count: int, source: str) -> None:
    registry.register(
        name,
        constructor,
        example_inputs=(jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),),
        output_shapes=(2, 1000),
        parameter_count=parameter_count,
        source=source,
    )


_register(
    "alexnet",
    AlexNet,
    67,
    60_965_224,
    "Krizhevsky, Sutskever and Hinton (2012), figure 2",
)
_register(
    "alexnet_one_tower",
    functools.partial(AlexNet, features=(64, 192, 384, 256, 256), one_tower=True),
    63,
    61_100_840,
    "Krizhevsky (2014), in torchvision's layout",
)
