"""Multi-layer perceptrons: fully connected layers, with or without dropout."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry
from dlcore.nn.activations import activation
from dlcore.nn.regularization import Dropout


class MLP(nn.Module):
    """Hidden layers of one kind, then an affine map to the classes' logits.

    Attributes:
      num_classes: number of classes.
      hidden: units of each hidden layer.
      activation: name of the hidden units' activation function: relu, sigmoid or tanh.
      dropout_rate: probability with which training drops a hidden unit.
    """

    num_classes: int = 10
    hidden: tuple[int, ...] = (500,)
    activation: str = "tanh"
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images of any shape."""
        x = x.reshape(x.shape[0], -1)
        for units in self.hidden:
            # Glorot and Bengio (2010), as the program that the default layout comes from.
            x = nn.Dense(units, kernel_init=nn.initializers.glorot_uniform())(x)
            x = activation(self.activation)(x)
            x = Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.glorot_uniform())(x)


_IMAGES = (jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),)

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
