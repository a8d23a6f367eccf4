"""Texts in which the order of the words does not count.

A text is how often it has each word (Harris, 1954); what is made of these numbers is a linear
classifier, as in Joachims (1998), or a network with hidden layers.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn.activations import activation
from dlcore.nn.lengths import real
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate

_WEIGHTS = ("binary", "count", "frequency")


class BagOfWords(nn.Module):
    """A number for each word of the vocabulary, then dense layers.

    Attributes:
      num_classes: logits that it gives.
      vocabulary_size: words that are told apart.
      weights: of a word in a text: binary (whether it occurs; Pang, Lee and Vaithyanathan, 2002,
        found it the better one for sentiment), count (how often), frequency (the count divided by
        the text's length).
      hidden: units of each hidden layer, with ReLU; empty for a linear classifier.
      dropout_rate: probability with which training drops a word's number, or a hidden unit.
    """

    num_classes: Positive = 2
    vocabulary_size: Positive = 10_000
    weights: str = "binary"
    hidden: tuple[Positive, ...] = ()
    dropout_rate: Rate = 0.0

    @nn.compact
    def __call__(
        self,
        sequence: Array,
        lengths: Int[Array, " batch"],
        train: bool = False,
    ) -> Float[Array, "batch {self.num_classes}"]:
        """The logits of each text.

        Args:
          sequence: words, by their place in the vocabulary, int32 `[batch, time]`.
          lengths: how many of each row are real.
          train: whether dropout is on.

        Raises:
          UsageError: there are no such weights, or the steps of the sequence are no tokens.
        """
        x = bag(tokens(sequence), lengths, self.vocabulary_size, self.weights)
        x = Dropout(self.dropout_rate)(x, train)
        for layer, units in enumerate(self.hidden):
            x = activation("relu")(nn.Dense(units, name=f"hidden{layer}")(x))
            x = Dropout(self.dropout_rate)(x, train)
        return nn.Dense(self.num_classes, name="logits")(x)


def bag(
    sequence: Int[Array, "batch time"],
    lengths: Int[Array, " batch"],
    vocabulary_size: int,
    weights: str,
) -> Float[Array, "batch {vocabulary_size}"]:
    """The number of each word in each text: see `BagOfWords.weights`.

    Raises:
      UsageError: there are no such weights.
    """
    if weights not in _WEIGHTS:
        raise UsageError(f"unknown weights {weights!r}: they are one of {', '.join(_WEIGHTS)}")
    rows = jnp.arange(sequence.shape[0])[:, None]
    once = real(lengths, sequence.shape[1]).astype(jnp.float32)
    nothing = jnp.zeros((sequence.shape[0], vocabulary_size), jnp.float32)
    counts = nothing.at[rows, sequence].add(once)
    match weights:
        case "binary":
            return jnp.minimum(counts, 1)
        case "count":
            return counts
    return counts / jnp.maximum(lengths, 1).astype(jnp.float32)[:, None]


def tokens(sequence: Any) -> Int[Array, "batch time"]:
    """A sequence that is one of tokens.

    Raises:
      UsageError: its steps are measurements.
    """
    if not jnp.issubdtype(sequence.dtype, jnp.integer):
        raise UsageError(
            f"the model reads tokens, int32 [batch, time], and gets {sequence.dtype} of the shape"
            f" {sequence.shape}: it is for texts"
        )
    return sequence


registry.register(
    "bag_of_words",
    BagOfWords,
    example_inputs=(
        jax.ShapeDtypeStruct((2, 7), jnp.int32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
    ),
    output_shapes=(2, 2),
    parameter_count=20_002,
    source="Harris (1954); Pang, Lee and Vaithyanathan (2002)",
)
