"""Long short-term memory over whole sequences, with the state carried in and out.

`kernels.lstm` computes it; the equations, and in which order the gates lie side by side, are in
`kernels.lstm.types`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dlcore.nn.regularization import Dropout
from kernels import lstm as operation

# The cell state c and the output h of one layer, each [batch, hidden].
Carry = tuple[Array, Array]


def initial_carry(batch: int, hidden: int, layers: int) -> tuple[Carry, ...]:
    """The zero state of `layers` layers of `hidden` units for `batch` sequences, float32."""
    shape = (batch, hidden)
    # Arrays of their own: the state of a training is donated, and no buffer may be donated twice.
    return tuple(
        (jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)) for _ in range(layers)
    )


def lstm(
    inputs: Float[Array, "batch time features"],
    carry: Carry,
    input_kernel: Float[Array, "features gates"],
    recurrent_kernel: Float[Array, "hidden gates"],
    bias: Float[Array, " gates"],
) -> tuple[Float[Array, "batch time hidden"], Carry]:
    """One layer over a sequence; `gates` is 4 `hidden`.

    Args:
      inputs: x at every step.
      carry: c and h before the first step.
      input_kernel: W.
      recurrent_kernel: R.
      bias: b.

    Returns:
      h after every step, and the carry after the last one.
    """
    params = operation.Params(input_kernel, recurrent_kernel, bias)
    outputs, (cell, output) = operation.lstm(inputs, params, operation.State(*carry))
    return outputs, (cell, output)


def _orthogonal_gates(
    key: jax.Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32
) -> Array:
    """An orthogonal matrix for each of the four gates, side by side."""
    hidden, gates = shape
    orthogonal = jax.nn.initializers.orthogonal()
    matrices = jax.vmap(lambda key: orthogonal(key, (hidden, hidden), dtype))(
        jax.random.split(key, 4)
    )
    return matrices.swapaxes(0, 1).reshape(hidden, gates)


class LSTM(nn.Module):
    """One LSTM layer, with as many parameters as Flax's `OptimizedLSTMCell`, initialized alike.

    Attributes:
      hidden: number of units.
    """

    hidden: int

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch time features"], carry: Carry
    ) -> tuple[Float[Array, "batch time hidden"], Carry]:
        """The layer's `lstm`."""
        gates = 4 * self.hidden
        return lstm(
            inputs,
            carry,
            self.param(
                "input_kernel",
                nn.initializers.lecun_normal(),
                (inputs.shape[-1], gates),
                jnp.float32,
            ),
            self.param("recurrent_kernel", _orthogonal_gates, (self.hidden, gates), jnp.float32),
            self.param("bias", nn.initializers.zeros, (gates,), jnp.float32),
        )


class StackedLSTM(nn.Module):
    """LSTM layers on top of each other, with dropout on every layer's output.

    Dropout is applied to what a layer hands up, never to what it hands on to its own next step
    (Zaremba, Sutskever and Vinyals, 2014).

    Attributes:
      hidden: number of units of every layer.
      layers: number of layers.
      dropout_rate: probability with which training drops a number of a layer's output.
    """

    hidden: int
    layers: int
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "batch time features"],
        carry: tuple[Carry, ...],
        train: bool = False,
    ) -> tuple[Float[Array, "batch time hidden"], tuple[Carry, ...]]:
        """The top layer's outputs, and the carry of every layer after the last step.

        Args:
          inputs: the bottom layer's inputs.
          carry: the carry of every layer before the first step, as `initial_carry` gives it.
          train: whether dropout is on.
        """
        last = []
        for layer in range(self.layers):
            lstm = LSTM(self.hidden, name=f"layer{layer}")
            inputs, layer_carry = lstm(inputs, carry[layer])
            inputs = Dropout(self.dropout_rate)(inputs, train)
            last.append(layer_carry)
        return inputs, tuple(last)
