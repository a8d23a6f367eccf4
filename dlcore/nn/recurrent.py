"""Long short-term memory over whole sequences, with the state carried in and out.

The cell of Hochreiter and Schmidhuber (1997) with the forget gate of Gers, Schmidhuber and Cummins
(2000), without peepholes:

    i, f, o = sigmoid(x W + h R + b),  g = tanh(x W + h R + b)
    c' = f c + i g
    h' = o tanh(c')

The gates lie side by side in the last axis of W, R and b, in the order i, f, g, o.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dlcore.nn.regularization import Dropout

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
    batch, time, features = inputs.shape
    # x W over all steps is one matrix product outside the loop. It has two axes, not three: XLA on
    # a CPU takes longer for the gradient of W where batch and time are two axes to contract.
    rows = inputs.swapaxes(0, 1).reshape(time * batch, features)
    projected = (rows @ input_kernel + bias).reshape(time, batch, -1)
    outputs, carry = _recurrence(projected, carry, recurrent_kernel)
    return outputs.swapaxes(0, 1), carry


@jax.custom_vjp
def _recurrence(
    projected: Float[Array, "time batch gates"],
    carry: Carry,
    recurrent_kernel: Float[Array, "hidden gates"],
) -> tuple[Float[Array, "time batch hidden"], Carry]:
    """The steps that depend on each other, given x W + b: every h, and the last carry."""
    return _recurrence_forward(projected, carry, recurrent_kernel)[0]


def _recurrence_forward(projected: Array, carry: Carry, recurrent_kernel: Array) -> tuple:
    """The recurrence, and what its gradient needs."""

    def step(carry: Carry, projected: Array) -> tuple[Carry, tuple[Array, ...]]:
        c, h = carry
        i, f, g, o = jnp.split(projected + h @ recurrent_kernel, 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (c, h), (c, h, jnp.concatenate([i, f, g, o], axis=-1))

    last, (cells, outputs, gates) = jax.lax.scan(step, carry, projected)
    return (outputs, last), (carry, recurrent_kernel, cells, outputs, gates)


def _recurrence_backward(residuals: tuple, cotangents: tuple) -> tuple[Array, Carry, Array]:
    """Back-propagation through time (Werbos, 1990).

    Written by hand because the gradient of R can then be one matrix product over all steps. JAX's
    own transpose of the scan adds up a product a step: a training step takes 10 to 25 % longer so.
    """
    (first_cell, first_output), recurrent_kernel, cells, outputs, gates = residuals
    output_cotangents, last_cotangent = cotangents
    previous_cells = jnp.concatenate([first_cell[None], cells[:-1]])
    previous_outputs = jnp.concatenate([first_output[None], outputs[:-1]])

    def step(cotangent: Carry, at: tuple[Array, ...]) -> tuple[Carry, Array]:
        dc, dh = cotangent
        output_cotangent, c, previous_c, gates = at
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        squashed = jnp.tanh(c)
        dh = dh + output_cotangent
        dc = dc + dh * o * (1 - squashed**2)
        dz = jnp.concatenate(
            [
                dc * g * i * (1 - i),
                dc * previous_c * f * (1 - f),
                dc * i * (1 - g**2),
                dh * squashed * o * (1 - o),
            ],
            axis=-1,
        )
        return (dc * f, dz @ recurrent_kernel.T), dz

    first_cotangent, dz = jax.lax.scan(
        step, last_cotangent, (output_cotangents, cells, previous_cells, gates), reverse=True
    )
    hidden, width = recurrent_kernel.shape
    kernel_cotangent = previous_outputs.reshape(-1, hidden).T @ dz.reshape(-1, width)
    return dz, first_cotangent, kernel_cotangent


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


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
    """One LSTM layer with its parameters: as many as Flax's `OptimizedLSTMCell`, as it fills them.

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
            self.param("input_kernel", nn.initializers.lecun_normal(), (inputs.shape[-1], gates)),
            self.param("recurrent_kernel", _orthogonal_gates, (self.hidden, gates)),
            self.param("bias", nn.initializers.zeros, (gates,)),
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
            inputs, layer_carry = LSTM(self.hidden, name=f"layer_{layer}")(inputs, carry[layer])
            inputs = Dropout(self.dropout_rate)(inputs, train)
            last.append(layer_carry)
        return inputs, tuple(last)
