"""Characters in, characters out, through a stack of LSTM layers.

Graves (2013, section 4.1) in the form that Karpathy's char-rnn (2015) made known: one-hot
characters, LSTM layers (`dlcore.nn.recurrent`), a softmax over the next character.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlcore.models import registry
from dlcore.nn import recurrent
from dlcore.ranges import Positive, Rate


class CharLSTM(nn.Module):
    """A character language model.

    Attributes:
      vocabulary_size: number of distinct characters.
      hidden: units of every LSTM layer.
      layers: number of LSTM layers.
      dropout_rate: probability with which training drops a number of a layer's output.
      dtype: of the LSTM's outputs and products, "float32" or "bfloat16"; the memory and the logits
        are float32.
    """

    vocabulary_size: Positive = 65
    hidden: Positive = 128
    layers: Positive = 2
    dropout_rate: Rate = 0.0
    dtype: str = "float32"

    @nn.nowrap
    def initial_carry(self, batch: int) -> tuple[recurrent.Carry, ...]:
        """The state at the beginning of `batch` texts; every array's first axis is the batch."""
        return self._stack(parent=None).initial_carry(batch)

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "batch time"],
        carry: tuple[recurrent.Carry, ...],
        train: bool = False,
    ) -> tuple[Float[Array, "batch time vocabulary"], tuple[recurrent.Carry, ...]]:
        """Logits of the character that follows each one, and the state after the last.

        Args:
          tokens: characters, by their index in the vocabulary.
          carry: the state before the first of them.
          train: whether dropout is on.

        Raises:
          UsageError: there is no such dtype.
        """
        x = jax.nn.one_hot(tokens, self.vocabulary_size, dtype=jnp.float32)
        x, carry = self._stack(name="lstm")(x, carry, train=train)
        return nn.Dense(self.vocabulary_size, name="logits")(x.astype(jnp.float32)), carry

    @nn.nowrap
    def _stack(self, **of_module: Any) -> recurrent.Stack:
        cell = recurrent.LSTMCell(self.hidden, dtype=self.dtype, parent=None)
        return recurrent.Stack(cell, self.layers, dropout_rate=self.dropout_rate, **of_module)


def _register(name: str, hidden: int, parameter_count: int) -> None:
    layers, batch, time = 2, 2, 8
    state = jax.ShapeDtypeStruct((batch, hidden), jnp.float32)
    registry.register(
        name,
        functools.partial(CharLSTM, hidden=hidden),
        example_inputs=(
            jax.ShapeDtypeStruct((batch, time), jnp.int32),
            ((state, state),) * layers,
        ),
        output_shapes=((batch, time, 65), ((state.shape, state.shape),) * layers),
        parameter_count=parameter_count,
        source="Karpathy's char-rnn (2015), after Graves (2013), section 4.1",
    )


_register("char_lstm", hidden=128, parameter_count=239_297)
_register("char_lstm_512", hidden=512, parameter_count=3_316_289)
