"""What is right: the LSTM as its equations say, in float32, differentiated by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kernels.lstm.types import Params, State


def lstm(
    inputs: Float[Array, "batch time features"],
    params: Params,
    first: State,
    lengths: Int[Array, " batch"] | None,
    *,
    reverse: bool,
) -> tuple[Float[Array, "batch time hidden"], State]:
    """The layer over whole sequences: every h, zero past a row's end, and the last state.

    Computed in the dtype of the parameters, or in float32 where that is narrower.
    """
    # NumPy's, since JAX's refuses bfloat16 where promotion is strict.
    dtype = np.promote_types(params.recurrent_kernel.dtype, np.float32)
    kernel, recurrent_kernel, bias = (array.astype(dtype) for array in params)
    steps = inputs.shape[1]
    limits = jnp.full(inputs.shape[0], steps) if lengths is None else lengths

    def step(state: State, at: tuple[Array, Array]) -> tuple[State, Array]:
        time, x = at
        takes_part = (time < limits)[:, None]
        # Where a row takes no part, zeros: a NaN would pass the `where` below into the gradients.
        x, begun_cell, begun_output = (
            jnp.where(takes_part, array, 0) for array in (x, state.cell, state.output)
        )
        sums = jnp.matmul(x, kernel, precision="highest") + bias
        sums += jnp.matmul(begun_output, recurrent_kernel, precision="highest")
        i, f, g, o = jnp.split(sums, 4, axis=-1)
        cell = jax.nn.sigmoid(f) * begun_cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        output = jax.nn.sigmoid(o) * jnp.tanh(cell)
        new = State(
            jnp.where(takes_part, cell, state.cell), jnp.where(takes_part, output, state.output)
        )
        return new, jnp.where(takes_part, output, 0)

    first = State(*(array.astype(dtype) for array in first))
    by_time = (jnp.arange(steps, dtype=jnp.int32), inputs.astype(dtype).swapaxes(0, 1))
    last, outputs = jax.lax.scan(step, first, by_time, reverse=reverse)
    outputs = outputs.swapaxes(0, 1).astype(inputs.dtype)
    return outputs, State(last.cell, last.output.astype(inputs.dtype))
