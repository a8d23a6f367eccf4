"""Multi-layer perceptrons whose layers form a truncated fractal, trained with drop-path.

Larsson, Maire and Shakhnarovich (2017), "FractalNet: Ultra-deep neural networks without residuals",
with fully connected layers for the paper's convolutions. A block of C columns is made by the rule

    f_1(z) = layer(z),    f_{C+1}(z) = join(f_C(f_C(z)), layer(z))

in which adjacent joins are merged into one, the mean of all their inputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlcore.models import registry
from dlcore.nn import normalization
from dlcore.nn.activations import activation
from dlcore.nn.regularization import DropPathJoin, drop_path_columns
from dlcore.ranges import Positive, Rate, Share


class FractalMLP(nn.Module):
    """A layer to the blocks' width, fractal blocks, an affine map to the logits.

    Attributes:
      num_classes: number of classes.
      hidden: units of every hidden layer.
      blocks: number of fractal blocks.
      columns: columns of a block; the deepest has 2^(columns - 1) layers.
      activation: name of the hidden units' activation function.
      normalization: of the hidden units: none, batch, layer or group:GROUPS.
      normalize: before or after the activation function.
      drop_path_rate: probability with which training drops an input of a join locally.
      global_drop_path: share of the examples for which training keeps one column alone instead.
    """

    num_classes: Positive = 10
    hidden: Positive = 128
    blocks: Positive = 1
    columns: Positive = 3
    activation: str = "relu"
    normalization: str = "none"
    normalize: str = "before"
    drop_path_rate: Rate = 0.15
    global_drop_path: Share = 0.5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images of any shape.

        Raises:
          UsageError: an option is out of range.
        """
        chosen = None
        if train:
            key = self.make_rng("dropout")
            chosen = drop_path_columns(key, x.shape[0], self.columns, self.global_drop_path)
        x = self._layer(x.reshape(x.shape[0], -1), train, "stem")
        for block in range(self.blocks):
            x = self._block(x, chosen, train, f"block{block}")
        return nn.Dense(self.num_classes, name="logits")(x)

    def _block(
        self, x: Array, chosen: Int[Array, " batch"] | None, train: bool, name: str
    ) -> Array:
        """One block; column 0 is the deepest, and column c has a layer in every 2^c-th row."""
        columns = [x] * self.columns
        for row in range(1, 2 ** (self.columns - 1) + 1):
            ending = [column for column in range(self.columns) if row % 2**column == 0]
            outputs = jnp.stack(
                [
                    self._layer(columns[column], train, f"{name}_column{column}_row{row}")
                    for column in ending
                ]
            )
            joined = DropPathJoin(self.drop_path_rate)(outputs, chosen)
            columns[: len(ending)] = [joined] * len(ending)
        return columns[0]

    def _layer(self, x: Array, train: bool, name: str) -> Array:
        before, after = normalization.placed(self.normalization, self.normalize)
        use_bias = not normalization.replaces_bias(self.normalization, self.normalize)
        he_normal = nn.initializers.he_normal()
        sums = nn.Dense(self.hidden, use_bias, kernel_init=he_normal, name=name)(x)
        norm = f"{name}_norm"
        return after(activation(self.activation)(before(sums, train, norm)), train, norm)


registry.register(
    "fractal_mlp",
    FractalMLP,
    example_inputs=(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),),
    output_shapes=(2, 10),
    # 785 * 128, seven times 129 * 128, 129 * 10.
    parameter_count=217_354,
    source="Larsson, Maire and Shakhnarovich (2017), fully connected",
)
