"""Recurrent cells: the vanilla RNN, the GRU and the LSTM, a step at a time or over sequences.

In the equations x is a step's input, h the state, W and R the kernels of inputs and state, and b
the biases, which `use_bias=False` leaves out (the lectures' cells have none). A row of a batch is a
vector, so products are x W and h R. * multiplies number by number.

Products take operands of the cell's dtype and sum in float32. What adds up over the steps, the
GRU's h and the LSTM's c, is float32 whatever the dtype; as an operand it is rounded to it.
"""

import abc
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dlcore.nn import backbone
from dlcore.nn.lengths import within
from dlcore.ranges import Positive
from kernels import lstm, shapes
from kernels.lstm.xla import product

# An array [batch, hidden], or a tuple of such.
Carry = Any
# By name.
Params = dict[str, Array]


class Cell(nn.Module, abc.ABC):
    """One step of a recurrent network, `(carry, x) -> (carry, y)`.

    What a step computes of x alone, x W + b, waits for no other step: over a sequence it is one
    large product. `advance` is the rest, by which the kinds of cells differ; besides it they define
    how many `gates` they have, and which parameters and dtypes of the carry are not the usual ones.

    Attributes:
      hidden: number of units.
      use_bias: whether sums have biases.
      dtype: of the outputs and of the products' operands, "float32" or "bfloat16"; the parameters
        are float32.
    """

    hidden: Positive
    use_bias: bool = True
    dtype: str = "float32"

    # How many sums of `hidden` units lie side by side in W, R and b.
    gates: ClassVar[int]

    def __call__(
        self, carry: Carry, x: Float[Array, "batch features"]
    ) -> tuple[Carry, Float[Array, "batch {self.hidden}"]]:
        """The carry after a step, and the step's output.

        Raises:
          UsageError: there is no such dtype.
        """
        x = backbone.computing_in(self.dtype, x)
        params = self.parameters(x.shape[-1])
        return self.advance(params, self.as_carried(carry), self.project(params, x))

    def scan(
        self,
        inputs: Float[Array, "batch time features"],
        carry: Carry,
        lengths: Int[Array, " batch"] | None = None,
        *,
        reverse: bool = False,
        mask: Float[Array, "batch {self.hidden}"] | None = None,
    ) -> tuple[Float[Array, "batch time {self.hidden}"], Carry]:
        """The cell over whole sequences: every output, and the carry after each row's last step.

        Past a row's end its output is zero and its carry stays; its inputs there may be anything,
        NaN included, and have a gradient of zero. An empty row keeps the carry that it came with.

        Args:
          inputs: x at every step.
          carry: before the first step that a row takes.
          lengths: steps of each row, from 0 to `time`; all by default.
          reverse: take the steps against time: a row begins at its own end.
          mask: what h is multiplied with before its products, the same at every step.

        Raises:
          UsageError: there is no such dtype.
        """
        inputs = backbone.computing_in(self.dtype, inputs)
        params = self.parameters(inputs.shape[-1])
        return self.over(params, inputs, self.as_carried(carry), lengths, reverse, mask)

    @nn.compact
    def parameters(self, features: int) -> Params:
        """The parameters for inputs of so many features: W, R and b, and what a cell has besides.

        W is drawn as Linen's layers draw theirs, each gate's part of R is orthogonal, and biases
        are zero.
        """
        width = self.gates * self.hidden
        kernel = nn.initializers.lecun_normal()
        params = {
            "input_kernel": self.param("input_kernel", kernel, (features, width), jnp.float32),
            "recurrent_kernel": self.param(
                "recurrent_kernel", _orthogonal_gates, (self.hidden, width), jnp.float32
            ),
        }
        biases = {"bias": (width,)} if self.use_bias else {}
        for name, shape in (biases | self.further_shapes()).items():
            params[name] = self.param(name, nn.initializers.zeros, shape, jnp.float32)
        return params

    @nn.nowrap
    def further_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of parameters besides W, R and b, which begin as zero."""
        return {}

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        """The carry of `batch` rows before their first step: zero."""
        # Arrays of their own: the state of a training is donated, and no buffer twice.
        return jax.tree.map(
            lambda dtype: jnp.zeros((batch, self.hidden), dtype), self.carried_dtypes()
        )

    @nn.nowrap
    def as_carried(self, carry: Carry) -> Carry:
        """The carry in the dtypes in which it is handed from step to step."""
        return jax.tree.map(
            lambda dtype, array: jnp.asarray(array, dtype), self.carried_dtypes(), carry
        )

    @nn.nowrap
    def carried_dtypes(self) -> Any:
        """The dtype of every array of the carry, in the carry's structure."""
        return self.dtype

    @nn.nowrap
    def project(self, params: Params, inputs: Float[Array, "... features"]) -> Array:
        """The inputs' part of the sums, x W + b, of one step or of all at once."""
        sums = product(inputs, params["input_kernel"].astype(self.dtype))
        return (sums + params.get("bias", 0)).astype(self.dtype)

    @nn.nowrap
    @abc.abstractmethod
    def advance(
        self, params: Params, carry: Carry, sums: Array, mask: Array | None = None
    ) -> tuple[Carry, Array]:
        """A step: the carry after it, and its output.

        Args:
          params: of `parameters`.
          carry: before the step.
          sums: of `project`.
          mask: of `scan`.
        """

    @nn.nowrap
    def over(
        self,
        params: Params,
        inputs: Array,
        carry: Carry,
        lengths: Array | None,
        reverse: bool,
        mask: Array | None,
    ) -> tuple[Array, Carry]:
        """`scan` with the parameters in hand, by `jax.lax.scan` of `advance`."""
        # Times a cotangent of zero, a NaN behind a row's end would still reach the gradient of W.
        inputs = within(inputs, lengths)
        params, inputs, carry, lengths, mask = shapes.vary_alike(
            (params, inputs, carry, lengths, mask)
        )

        def step(carry: Carry, at: tuple[Array, Array]) -> tuple[Carry, Array]:
            time, sums = at
            if lengths is None:
                return self.advance(params, carry, sums, mask)
            takes_part = (time < lengths)[:, None]
            begun = jax.tree.map(lambda array: jnp.where(takes_part, array, 0), carry)
            after, y = self.advance(params, begun, sums, mask)
            after = jax.tree.map(lambda new, old: jnp.where(takes_part, new, old), after, carry)
            return after, jnp.where(takes_part, y, 0)

        steps = jnp.arange(inputs.shape[1], dtype=jnp.int32)
        by_time = (steps, self.project(params, inputs).swapaxes(0, 1))
        last, outputs = jax.lax.scan(step, carry, by_time, reverse=reverse)
        return outputs.swapaxes(0, 1), last

    @nn.nowrap
    def recur(self, params: Params, state: Array, mask: Array | None, gates: slice) -> Array:
        """The state's part of the sums, h R, of some of the gates; h is masked where a mask is."""
        if mask is not None:
            state = state.astype(jnp.float32) * mask
        width = slice(gates.start * self.hidden, gates.stop * self.hidden)
        kernel = params["recurrent_kernel"][:, width].astype(self.dtype)
        return product(state.astype(self.dtype), kernel)


class RNNCell(Cell):
    """The vanilla RNN, whose output is its state (Elman, 1990).

        h' = tanh(x W + h R + b),  y = h'

    The lectures (P) count the states as h at t + 1 from x and h at t; that is h' here.
    """

    gates: ClassVar[int] = 1

    @nn.nowrap
    def advance(
        self, params: Params, carry: Carry, sums: Array, mask: Array | None = None
    ) -> tuple[Carry, Array]:
        """See `Cell.advance`; the carry is h."""
        sums = sums.astype(jnp.float32) + self.recur(params, carry, mask, slice(0, 1))
        state = jnp.tanh(sums).astype(self.dtype)
        return state, state


class GRUCell(Cell):
    """The gated recurrent unit, whose z keeps the old state.

        r = sigmoid(x W + h R + b)  (reset),  z = sigmoid(x W + h R + b)  (update)
        n = tanh(x W + b + r * (h R + d))     as the lectures (P) and PyTorch have it, or
        n = tanh(x W + b + (r * h) R)         as Cho et al. (2014, eqs. 5 to 8) have it
        h' = z * h + (1 - z) * n,  y = h'

    The gates lie side by side in W, R and b in the order r, z, n. d is "recurrent_bias".

    Attributes:
      reset_after: whether the reset is applied after the recurrent product (P) or before (Cho).
    """

    reset_after: bool = True

    gates: ClassVar[int] = 3

    @nn.nowrap
    def further_shapes(self) -> dict[str, tuple[int, ...]]:
        """That of d: the others' biases would add up to one, but this one the reset can close."""
        return {"recurrent_bias": (self.hidden,)} if self.use_bias and self.reset_after else {}

    @nn.nowrap
    def carried_dtypes(self) -> Any:
        """That of h, the memory: float32."""
        return "float32"

    @nn.nowrap
    def advance(
        self, params: Params, carry: Carry, sums: Array, mask: Array | None = None
    ) -> tuple[Carry, Array]:
        """See `Cell.advance`; the carry is h."""
        r, z, n = jnp.split(sums.astype(jnp.float32), 3, axis=-1)
        of_r, of_z = jnp.split(self.recur(params, carry, mask, slice(0, 2)), 2, axis=-1)
        r, z = jax.nn.sigmoid(r + of_r), jax.nn.sigmoid(z + of_z)
        if self.reset_after:
            of_n = self.recur(params, carry, mask, slice(2, 3)) + params.get("recurrent_bias", 0)
            n = jnp.tanh(n + r * of_n)
        else:
            n = jnp.tanh(n + self.recur(params, r * carry, mask, slice(2, 3)))
        state = z * carry + (1 - z) * n
        return state, state.astype(self.dtype)


class LSTMCell(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).

        i, f, o = sigmoid(x W + h R + b),  g = tanh(x W + h R + b)
        c' = f * c + i * g
        h' = o * tanh(c'),  y = h'

    The lectures (P) call i save, f remember and o focus; c is the long memory and h the working
    memory. The gates lie side by side in W, R and b in the order i, f, g, o. Whole sequences are
    the operation of `kernels.lstm`; those with peepholes, or with a mask, are a scan.

    Attributes:
      forget_bias: a constant in the sum of f; a positive one makes a fresh cell remember.
      peepholes: whether gates see the memory: p * c in the sums of i and f, p * c' in that of o
        (Gers and Schmidhuber, 2000). p is "peepholes", [3, hidden], in the order i, f, o.
    """

    forget_bias: float = 0.0
    peepholes: bool = False

    gates: ClassVar[int] = 4

    @nn.nowrap
    def further_shapes(self) -> dict[str, tuple[int, ...]]:
        """That of the peepholes."""
        return {"peepholes": (3, self.hidden)} if self.peepholes else {}

    @nn.nowrap
    def carried_dtypes(self) -> Any:
        """Those of c, the memory, float32, and of h, which is an output."""
        return "float32", self.dtype

    @nn.nowrap
    def advance(
        self, params: Params, carry: Carry, sums: Array, mask: Array | None = None
    ) -> tuple[Carry, Array]:
        """See `Cell.advance`; the carry is c and h."""
        cell, output = carry
        sums = sums.astype(jnp.float32) + self.recur(params, output, mask, slice(0, 4))
        i, f, g, o = jnp.split(sums, 4, axis=-1)
        if self.peepholes:
            i, f = i + params["peepholes"][0] * cell, f + params["peepholes"][1] * cell
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        if self.peepholes:
            o += params["peepholes"][2] * cell
        output = (jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(self.dtype)
        return (cell, output), output

    @nn.nowrap
    def project(self, params: Params, inputs: Float[Array, "... features"]) -> Array:
        """See `Cell.project`; the forget gate's constant is a part of b."""
        return super().project({**params, "bias": self._bias(params)}, inputs)

    @nn.nowrap
    def over(
        self,
        params: Params,
        inputs: Array,
        carry: Carry,
        lengths: Array | None,
        reverse: bool,
        mask: Array | None,
    ) -> tuple[Array, Carry]:
        """See `Cell.over`; by the kernels, where they have the equations."""
        if self.peepholes or mask is not None:
            return super().over(params, inputs, carry, lengths, reverse, mask)
        kernels = lstm.Params(
            params["input_kernel"], params["recurrent_kernel"], self._bias(params)
        )
        outputs, (cell, output) = lstm.lstm(
            inputs, kernels, lstm.State(*carry), lengths, reverse=reverse
        )
        return outputs, (cell, output)

    @nn.nowrap
    def _bias(self, params: Params) -> Array:
        constant = jnp.repeat(jnp.array([0, self.forget_bias, 0, 0], jnp.float32), self.hidden)
        return constant + params.get("bias", 0)


def _orthogonal_gates(
    key: jax.Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32
) -> Array:
    """An orthogonal matrix for each gate, side by side."""
    hidden, width = shape
    orthogonal = jax.nn.initializers.orthogonal()
    matrices = jax.vmap(lambda key: orthogonal(key, (hidden, hidden), dtype))(
        jax.random.split(key, width // hidden)
    )
    return matrices.swapaxes(0, 1).reshape(hidden, width)
