"""Two heads over one trunk (Caruana 1997)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry
from dlcore.nn.activations import activation
from dlcore.ranges import Positive


class MultitaskMLP(nn.Module):
    """Hidden layers that two affine heads share: one for the class, one for tags.

    Attributes:
      num_classes: number of classes.
      num_tags: number of tags.
      hidden: units of each hidden layer.
      activation: name of the hidden units' activation function.
    """

    num_classes: Positive = 10
    num_tags: Positive = 7
    hidden: tuple[Positive, ...] = (100,)
    activation: str = "relu"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], train: bool = False
    ) -> tuple[Float[Array, "batch {self.num_classes}"], Float[Array, "batch {self.num_tags}"]]:
        """Class scores, and log-odds of the tags, of a batch of images of any shape."""
        del train
        x = x.reshape(x.shape[0], -1)
        for layer, units in enumerate(self.hidden):
            x = activation(self.activation)(nn.Dense(units, name=f"hidden{layer}")(x))
        classes = nn.Dense(self.num_classes, name="class_logits")(x)
        return classes, nn.Dense(self.num_tags, name="tag_logits")(x)


registry.register(
    "multitask_mlp",
    MultitaskMLP,
    example_inputs=(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),),
    output_shapes=((2, 10), (2, 7)),
    parameter_count=80_217,
    source="Caruana (1997), figure 2",
)
