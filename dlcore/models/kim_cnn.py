"""Convolutions over the words of a sentence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dlcore.models import registry
from dlcore.models.bag_of_words import tokens
from dlcore.nn.lengths import real, within
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate


class KimCNN(nn.Module):
    """The CNN of Kim (2014, section 2) with random word vectors, "CNN-rand".

    Every window of so many words, some of which may lie before the first word or behind the last,
    is seen through ReLU feature maps; of each map the largest value of the sentence goes on. Unlike
    in the paper, nothing bounds the norm of the last layer's weights.

    Attributes:
      num_classes: logits that it gives.
      vocabulary_size: words that are told apart.
      embedding_size: numbers of a word's vector.
      widths: words in a window, for each set of maps.
      maps: feature maps of each width.
      dropout_rate: probability with which training drops a map's largest value.
    """

    num_classes: Positive = 2
    vocabulary_size: Positive = 18_765
    embedding_size: Positive = 300
    widths: tuple[Positive, ...] = (3, 4, 5)
    maps: Positive = 100
    dropout_rate: Rate = 0.5

    @nn.compact
    def __call__(
        self,
        sequence: Array,
        lengths: Int[Array, " batch"],
        train: bool = False,
    ) -> Float[Array, "batch {self.num_classes}"]:
        """The logits of each sentence.

        Args:
          sequence: words, by their place in the vocabulary, int32 `[batch, time]`.
          lengths: how many of each row are real.
          train: whether dropout is on.

        Raises:
          UsageError: the steps of the sequence are no tokens.
        """
        embedding = nn.Embed(
            self.vocabulary_size, self.embedding_size, embedding_init=_uniform, name="embedding"
        )
        x = within(embedding(tokens(sequence)), lengths)
        largest = [self._largest(x, lengths, width) for width in self.widths]
        x = Dropout(self.dropout_rate)(jnp.concatenate(largest, axis=-1), train)
        return nn.Dense(self.num_classes, name="logits")(x)

    def _largest(
        self, x: Float[Array, "batch time features"], lengths: Int[Array, " batch"], width: int
    ) -> Float[Array, "batch {self.maps}"]:
        """The largest value of each map over the windows with at least one word; 0 of no word."""
        maps = nn.relu(Windows(self.maps, width, name=f"width{width}")(x))
        with_words = real(jnp.where(lengths > 0, lengths + width - 1, 0), maps.shape[1])
        # Nothing that ReLU gives is below the 0 of other windows.
        return jnp.where(with_words[..., None], maps, 0).max(1)


class Windows(nn.Module):
    """A convolution over time, by every window that has a step of the sequence in it.

    It is one product of all steps with all places of the kernel, whose parts are then shifted and
    added: on a CPU a twelfth of the time of XLA's one-dimensional convolution with its gradients.

    Attributes:
      features: maps that it gives.
      width: steps of a window.
    """

    features: Positive
    width: Positive

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time channels"]
    ) -> Float[Array, "batch time+{self.width}-1 {self.features}"]:
        """The maps of each window, the first of which ends at the first step."""
        shape = (self.width, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        parts = jnp.einsum("btc,wcf->wbtf", x, kernel)
        shifted = [
            jnp.pad(part, ((0, 0), (self.width - 1 - place, place), (0, 0)))
            for place, part in enumerate(parts)
        ]
        return jnp.stack(shifted).sum(0) + bias


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """The authors' start: numbers between -0.25 and 0.25."""
    return jax.random.uniform(key, shape, dtype, -0.25, 0.25)


registry.register(
    "kim_cnn",
    KimCNN,
    example_inputs=(
        jax.ShapeDtypeStruct((2, 7), jnp.int32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
    ),
    output_shapes=(2, 2),
    parameter_count=5_990_402,
    source="Kim (2014), section 2 and table 1",
)
