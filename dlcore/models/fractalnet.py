"""FractalNet: convolutional networks whose blocks are truncated fractals, trained with drop-path.

Larsson, Maire and Shakhnarovich (2017), "FractalNet: Ultra-deep neural networks without residuals".
A block of C columns is made by the rule

    f_1(z) = layer(z),    f_{C+1}(z) = join(f_C(f_C(z)), layer(z))

in which adjacent joins are merged into one, the mean of all their inputs. A layer is a 3x3
convolution, batch normalization and ReLU; 2x2 max pooling ends a block.

Where the paper leaves something open, it is as in its authors' program: each column is pooled
before the block's last join, and dropout stands between convolution and normalization. There the
network of 20 layers has three columns: a block's deepest one has 2^(columns - 1) layers, and there
are five blocks. (Four columns make 40 layers.) Their convolutions have biases and their
normalizations neither scale nor shift; here it is the other way round. A batch's statistics are
those of all its examples, whatever is dropped of them behind the layer.

Kernels are initialized as by Caffe's "xavier": uniform, with variance 1 / fan-in.
"""

from collections.abc import Sequence
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn import backbone
from dlcore.nn.conv_norm import MeasuredConv, Norm
from dlcore.nn.initializers import xavier
from dlcore.nn.pooling import max_pool
from dlcore.nn.regularization import Dropout, DropPathJoin, drop_path_columns
from dlcore.ranges import Positive, Range, Rate, Share

ALL_COLUMNS = -1


class FractalNet(nn.Module):
    """Fractal blocks that end in max pooling, then logits.

    A stage's result is that of a block, behind its pooling: before that it is in several columns.

    Attributes:
      num_classes: number of classes.
      channels: of each block.
      columns: columns of a block; the deepest has 2^(columns - 1) layers.
      dropout_rates: for each block, probability with which training drops a convolution's number.
      drop_path_rate: probability with which training drops an input of a join locally.
      global_drop_path: share of the examples for which training keeps one column alone instead.
      evaluated_column: through which column alone evaluation goes, 0 being the deepest; -1 for the
        whole network.
      dtype: float32 or bfloat16, of the layers' outputs; parameters, statistics and logits are
        float32.
    """

    num_classes: Positive = 10
    channels: tuple[Positive, ...] = (64, 128, 256, 512, 512)
    columns: Positive = 3
    dropout_rates: tuple[Rate, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    drop_path_rate: Rate = 0.15
    global_drop_path: Share = 0.5
    evaluated_column: Annotated[int, Range(least=ALL_COLUMNS)] = ALL_COLUMNS
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch {self.num_classes}"]:
        """Logits of a batch of images, in the paper of 32x32.

        Raises:
          UsageError: there is no such dtype or column, a rate is out of range or there are not as
            many as blocks, or the pooling leaves nothing of the images.
        """
        blocks = len(self.channels)
        if len(self.dropout_rates) != blocks:
            raise UsageError(
                f"dropout_rates={self.dropout_rates}: {blocks} blocks need {blocks} of them"
            )
        if not ALL_COLUMNS <= self.evaluated_column < self.columns:
            raise UsageError(
                f"evaluated_column={self.evaluated_column}: with {self.columns} columns it is from "
                f"0 to {self.columns - 1}, or {ALL_COLUMNS} for all"
            )
        backbone.require_size(x, 2**blocks, f"FractalNet of {blocks} blocks")
        chosen = None
        if train:
            key = self.make_rng("dropout")
            chosen = drop_path_columns(key, x.shape[0], self.columns, self.global_drop_path)
        x = backbone.computing_in(self.dtype, x)
        for block in range(blocks):
            x = self._block(block, x, chosen, train)
            x = backbone.stage(self, f"stage{block + 1}", x)
        pooled = backbone.stage(self, "pooled", x.astype(jnp.float32).mean((1, 2)))
        return nn.Dense(self.num_classes, kernel_init=xavier("uniform"), name="logits")(pooled)

    def _block(
        self, block: int, x: Array, chosen: Int[Array, " batch"] | None, train: bool
    ) -> Array:
        """One block; column 0 is the deepest, and column c has a layer in every 2^c-th row."""
        columns, name = [x] * self.columns, f"stage{block + 1}"
        in_use = self._columns_in_use(train)
        rows, step = 2 ** (self.columns - 1), 2 ** in_use[0]
        for row in range(step, rows + 1, step):
            ending = [column for column in in_use if row % 2**column == 0]
            outputs = [
                self._layer(block, columns[column], train, f"{name}_column{column}_row{row}")
                for column in ending
            ]
            if row == rows:
                outputs = [max_pool(output) for output in outputs]
            join = DropPathJoin(self.drop_path_rate, name=f"{name}_join{row}")
            x = join(jnp.stack(outputs), chosen)
            for column in ending:
                columns[column] = x
        return x

    def _columns_in_use(self, train: bool) -> Sequence[int]:
        """All where parameters are made or trained."""
        if train or self.is_initializing() or self.evaluated_column == ALL_COLUMNS:
            return range(self.columns)
        return (self.evaluated_column,)

    def _layer(self, block: int, x: Array, train: bool, name: str) -> Array:
        convolution = MeasuredConv(
            self.channels[block], kernel_init=xavier("uniform"), name=f"{name}_conv"
        )
        norm, rate = Norm(name=f"{name}_norm"), self.dropout_rates[block]
        sums = convolution(x, train)
        if not rate:
            return norm(sums, train)
        return norm(Dropout(rate, name=f"{name}_dropout")(sums.values, train), train)


registry.register(
    "fractalnet20_cifar",
    FractalNet,
    example_inputs=(jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=33_724_618,
    source="Larsson, Maire and Shakhnarovich (2017), section 4, their program's layout",
)
