"""Multi-layer perceptrons with a shortcut around every two layers.

The residual network of Deledalle's lecture, after He, Zhang, Ren and Sun (2016), "Deep residual
learning for image recognition", with the fully connected layers of the lecture:

    h' = g(W h),    h'' = g(W' h' + h)

The shortcuts have no parameters: there are as many as in the plain network of the same layers.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn import normalization
from dlcore.nn.activations import activation
from dlcore.nn.regularization import StochasticDepth, checked
from dlcore.ranges import Positive, Rate


class ResidualMLP(nn.Module):
    """A layer to the blocks' width, residual blocks of two layers, an affine map to the logits.

    Attributes:
      num_classes: number of classes.
      hidden: units of every hidden layer.
      blocks: number of residual blocks.
      activation: name of the hidden units' activation function g.
      normalization: of the hidden units: none, batch, layer or group:GROUPS.
      normalize: before or after the activation function; before means before the shortcut joins.
      stochastic_depth_rate: probability with which training drops the last block's branch; that of
        an earlier block is smaller in proportion to its number (Huang et al., 2016).
    """

    num_classes: Positive = 10
    hidden: Positive = 128
    blocks: Positive = 4
    activation: str = "relu"
    normalization: str = "none"
    normalize: str = "before"
    stochastic_depth_rate: Rate = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images of any shape.

        Raises:
          UsageError: an option is out of range.
        """
        last_rate = checked("stochastic_depth_rate", self.stochastic_depth_rate)
        before, after = normalization.placed(self.normalization, self.normalize)
        units = activation(self.activation)

        def sums(x: Array, name: str) -> Array:
            use_bias = not normalization.replaces_bias(self.normalization, self.normalize)
            he_normal = nn.initializers.he_normal()
            dense = nn.Dense(self.hidden, use_bias, kernel_init=he_normal, name=name)
            return before(dense(x), train, f"{name}_norm")

        def outputs(sums: Array, name: str) -> Array:
            return after(units(sums), train, f"{name}_norm")

        x = outputs(sums(x.reshape(x.shape[0], -1), "stem"), "stem")
        if x.shape[-1] != self.hidden:
            raise UsageError(
                f"activation={self.activation!r} changes the number of units: a shortcut needs as "
                "many behind a block as before it"
            )
        for block in range(self.blocks):
            first, second = (f"block{block}_hidden{layer}" for layer in range(2))
            branch = sums(outputs(sums(x, first), first), second)
            rate = last_rate * (block + 1) / self.blocks
            x = outputs(StochasticDepth(rate)(branch, train) + x, second)
        return nn.Dense(self.num_classes, name="logits")(x)


registry.register(
    "residual_mlp",
    ResidualMLP,
    example_inputs=(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),),
    output_shapes=(2, 10),
    # 785 * 128, eight times 129 * 128, 129 * 10.
    parameter_count=233_866,
    source="Deledalle's lecture, after He, Zhang, Ren and Sun (2016), fully connected",
)
