"""A recurrent network that reads a sequence and says what it is."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn import recurrent
from dlcore.nn.lengths import real
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate, Real

_POOLINGS = ("last", "mean", "max")


class LSTMClassifier(nn.Module):
    """LSTM layers over tokens or measurements, and one dense layer on what they remember.

    Many to one, as the lectures (P) have it for sentiment: the output after the last step is the
    code of the whole. In both directions each has read the whole at its own last step.

    Attributes:
      num_classes: logits that it gives.
      vocabulary_size: tokens that are told apart; measurements have none.
      embedding_size: numbers of a token's vector.
      hidden: units of every LSTM layer, in each direction.
      layers: number of LSTM layers.
      bidirectional: whether they read in both directions.
      pooling: what is made of the outputs of all steps: last, mean (over a row's steps) or max.
      forget_bias: a constant in the forget gate's sum; a positive one makes a fresh cell remember.
      dropout_rate: probability with which training drops a number of an embedding or of a layer's
        output.
      dtype: of the LSTM's outputs and products, "float32" or "bfloat16"; the memory and the logits
        are float32.
    """

    num_classes: Positive = 2
    vocabulary_size: Positive = 10_000
    embedding_size: Positive = 100
    hidden: Positive = 128
    layers: Positive = 1
    bidirectional: bool = False
    pooling: str = "last"
    forget_bias: Real = 1.0
    dropout_rate: Rate = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        sequence: Int[Array, "batch time"] | Float[Array, "batch time *features"],
        lengths: Int[Array, " batch"],
        train: bool = False,
    ) -> Float[Array, "batch {self.num_classes}"]:
        """The logits of each sequence; of an empty one the bias.

        Args:
          sequence: tokens, by their place in the vocabulary; or measurements.
          lengths: how many steps of each row are real.
          train: whether dropout is on.

        Raises:
          UsageError: there is no such pooling or dtype.
        """
        if self.pooling not in _POOLINGS:
            raise UsageError(
                f"unknown pooling {self.pooling!r}: it is one of {', '.join(_POOLINGS)}"
            )
        if jnp.issubdtype(sequence.dtype, jnp.integer):
            x = nn.Embed(self.vocabulary_size, self.embedding_size, name="embedding")(sequence)
            x = Dropout(self.dropout_rate)(x, train)
        else:
            x = sequence.reshape(*sequence.shape[:2], -1)
        cell = recurrent.LSTMCell(
            self.hidden, forget_bias=self.forget_bias, dtype=self.dtype, parent=None
        )
        stack = recurrent.Stack(
            cell,
            self.layers,
            bidirectional=self.bidirectional,
            dropout_rate=self.dropout_rate,
            name="lstm",
        )
        outputs, _ = stack(x, lengths=lengths, train=train)
        code = self._pooled(outputs.astype(jnp.float32), lengths)
        return nn.Dense(self.num_classes, name="logits")(code)

    def _pooled(
        self, outputs: Float[Array, "batch time outputs"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch outputs"]:
        # Behind a row's end outputs are zero, and so is all of an empty row.
        match self.pooling:
            case "last":
                rows = jnp.arange(outputs.shape[0])
                last = outputs[rows, jnp.maximum(lengths - 1, 0)]
                # The direction against time ends at the first step.
                sides = jnp.arange(outputs.shape[-1]) < self.hidden
                return jnp.where(sides, last, outputs[:, 0])
            case "mean":
                return outputs.sum(1) / jnp.maximum(lengths, 1).astype(jnp.float32)[:, None]
        steps = real(lengths, outputs.shape[1])[..., None]
        return jnp.where(steps, outputs, -1).max(1) * (lengths > 0)[:, None]


registry.register(
    "lstm_classifier",
    LSTMClassifier,
    example_inputs=(
        jax.ShapeDtypeStruct((2, 7), jnp.int32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
    ),
    output_shapes=(2, 2),
    parameter_count=1_117_506,
    source="Hochreiter and Schmidhuber (1997); Graves (2012), chapter 3",
)
