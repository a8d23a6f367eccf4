"""Multi-layer perceptrons: fully connected layers, and what regularizes their units and weights."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dlcore import memory
from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn import normalization
from dlcore.nn.activations import activation
from dlcore.nn.regularization import (
    DropConnectDense,
    Dropout,
    GaussianNoise,
    MaskedDense,
    checked,
)
from dlcore.ranges import NotNegative, Positive, Rate


class MLP(nn.Module):
    """Hidden layers of one kind, then an affine map to the classes' logits.

    Attributes:
      num_classes: number of classes.
      hidden: units of each hidden layer; with maxout the linear pieces of all its units.
      activation: name of the hidden units' activation function.
      normalization: of the hidden units: none, batch, layer or group:GROUPS.
      normalize: before or after the activation function.
      input_noise: standard deviation of the normal noise that training adds to the input.
      input_dropout_rate: probability with which training drops an input.
      dropout_rate: probability with which training drops a hidden unit.
      classic_dropout: evaluation scales by what is kept on average, instead of training.
      dropconnect_rate: probability with which training drops a weight or bias of a hidden layer
        (slow: every example has a mask of its own); not with `window`.
      window: rows and columns of the part of the image to which each unit of the first hidden layer
        is connected; the weights of its other connections are fixed to zero. Empty: the whole.
    """

    num_classes: Positive = 10
    hidden: tuple[Positive, ...] = (500,)
    activation: str = "tanh"
    normalization: str = "none"
    normalize: str = "before"
    input_noise: NotNegative = 0.0
    input_dropout_rate: Rate = 0.0
    dropout_rate: Rate = 0.0
    classic_dropout: bool = False
    dropconnect_rate: Rate = 0.0
    window: tuple[Positive, ...] = ()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images of any shape.

        Raises:
          UsageError: an option is out of range, or does not fit the image.
        """
        before, after = normalization.placed(self.normalization, self.normalize)
        for option in ("input_dropout_rate", "dropout_rate", "dropconnect_rate"):
            checked(option, getattr(self, option))
        if self.window and not self.hidden:
            raise UsageError(f"window={_listed(self.window)} needs a hidden layer")
        if self.window and self.dropconnect_rate:
            raise UsageError("dropconnect_rate needs full connections: it does not go with window")
        mask = window_mask(x.shape[1:], self.window, self.hidden[0]) if self.window else None
        x = GaussianNoise(self.input_noise)(jnp.asarray(x).reshape(x.shape[0], -1), train)
        x = Dropout(self.input_dropout_rate, self.classic_dropout)(x, train)
        for layer in range(len(self.hidden)):
            norm = f"hidden{layer}_norm"
            x = self._sums(x, layer, mask if layer == 0 else None, train)
            x = after(activation(self.activation)(before(x, train, norm)), train, norm)
            x = Dropout(self.dropout_rate, self.classic_dropout)(x, train)
        glorot_uniform = nn.initializers.glorot_uniform()
        return nn.Dense(self.num_classes, kernel_init=glorot_uniform, name="logits")(x)

    def _sums(self, x: Array, layer: int, mask: np.ndarray | None, train: bool) -> Array:
        """The weighted sums of a hidden layer; its parameters have the names of `nn.Dense`'s."""
        options: dict[str, Any] = {
            # Glorot and Bengio (2010), as the program that the default layout comes from.
            "kernel_init": nn.initializers.glorot_uniform(),
            "use_bias": not normalization.replaces_bias(self.normalization, self.normalize),
            "name": f"hidden{layer}",
        }
        if mask is not None:
            return MaskedDense(self.hidden[layer], **options)(x, mask)
        return DropConnectDense(self.hidden[layer], self.dropconnect_rate, **options)(x, train)


def window_mask(
    image: tuple[int, ...], window: tuple[int, ...], units: int
) -> Bool[np.ndarray, "inputs units"]:
    """Which inputs each unit sees: those in a window of the image, all channels.

    The windows lie row by row over the image, in equal steps among all positions they can take.

    Args:
      image: height, width and channels.
      window: rows and columns of a window.
      units: number of units, one window each.

    Raises:
      UsageError: the inputs are not images, the window does not fit into them, or the table does
        not fit into memory.
    """
    if len(image) != 3 or len(window) != 2 or window[0] > image[0] or window[1] > image[1]:
        raise UsageError(
            f"window={_listed(window)} does not fit inputs of "
            f"{'x'.join(map(str, image))}: it is the rows and columns of a part of an image"
        )
    size = memory.of_shape((*image, units), 1)
    if size > memory.of_host():
        raise UsageError(
            f"window={_listed(window)} takes a table of {memory.shown(size)}, and there are "
            f"{memory.shown(memory.of_host())} of memory: lower hidden={units}"
        )
    positions = image[0] - window[0] + 1, image[1] - window[1] + 1
    position = np.arange(units) * (positions[0] * positions[1]) // units
    top, left = np.unravel_index(position, positions)
    row = np.arange(image[0])[:, None, None, None]
    column = np.arange(image[1])[:, None, None]
    inside = (row >= top) & (row < top + window[0]) & (column >= left) & (column < left + window[1])
    return np.broadcast_to(inside, (*image, units)).reshape(-1, units)


def _listed(sizes: tuple[int, ...]) -> str:
    return ",".join(map(str, sizes))


_IMAGES = (jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),)

# Without the paper's bound on the norm of a unit's weights, which an optimizer would have to keep.
registry.register(
    "maxout",
    functools.partial(
        MLP,
        hidden=(1200, 1200),
        activation="maxout:5",
        input_dropout_rate=0.2,
        dropout_rate=0.5,
    ),
    example_inputs=_IMAGES,
    output_shapes=(2, 10),
    parameter_count=1_233_610,
    source="Goodfellow et al. (2013), section 5.1: pylearn2, papers/maxout/mnist_pi.yaml",
)
registry.register(
    "mlp",
    MLP,
    example_inputs=_IMAGES,
    output_shapes=(2, 10),
    parameter_count=397_510,
    source="lisa-lab, DeepLearningTutorials, mlp.py",
)
registry.register(
    "mlp_dropout",
    functools.partial(MLP, hidden=(512, 512), activation="relu", dropout_rate=0.2),
    example_inputs=_IMAGES,
    output_shapes=(2, 10),
    parameter_count=669_706,
    source="Keras, examples/mnist_mlp.py",
)
