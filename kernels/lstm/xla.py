"""The recurrence as a `lax.scan`: serves every device, dtype and shape."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from kernels import dispatch
from kernels.lstm import steps
from kernels.lstm.types import State, Trace


def forward(
    projected: Float[Array, "time batch gates"],
    recurrent_kernel: Float[Array, "hidden gates"],
    first: State,
    lengths: Int[Array, " batch"] | None,
    *,
    reverse: bool,
    keep: str,
) -> tuple[Trace, State]:
    """See `Recurrence.forward`."""
    dtype, wide = projected.dtype, accumulator(projected.dtype)

    def step(state: State, at: tuple[Array, Array]) -> tuple[State, Trace]:
        time, sums = at
        sums = sums.astype(wide) + product(state.output, recurrent_kernel)
        gates = steps.activate(steps.split(sums))
        cell, output = steps.advance(gates, state.cell)
        output = output.astype(dtype)
        if lengths is not None:
            takes_part = (time < lengths)[:, None]
            cell = jnp.where(takes_part, cell, state.cell)
            output = jnp.where(takes_part, output, state.output)
        trace = Trace(
            output,
            None if keep == "outputs" else state.cell,
            jnp.concatenate(gates, axis=-1).astype(dtype) if keep == "gates" else None,
        )
        return State(cell, output), trace

    by_time = (jnp.arange(projected.shape[0], dtype=jnp.int32), projected)
    last, trace = jax.lax.scan(step, first, by_time, reverse=reverse)
    return trace, last


def backward(
    recurrent_kernel: Float[Array, "hidden gates"],
    gates: Float[Array, "time batch gates"],
    cells: Float[Array, "time batch hidden"],
    lengths: Int[Array, " batch"] | None,
    output_cotangents: Float[Array, "time batch hidden"],
    last_cotangent: State,
    *,
    reverse: bool,
) -> tuple[Float[Array, "time batch gates"], State]:
    """See `Recurrence.backward`: back-propagation through time (Werbos, 1990)."""
    dtype, wide = gates.dtype, accumulator(gates.dtype)
    # The slopes of all steps at once take memory: XLA on a CPU is up to 10 % faster for them.
    ahead = dispatch.platform(dispatch.device_kind()) == "cpu"

    def slopes_of(gates: Array, cells: Array) -> steps.Slopes:
        return steps.slopes(steps.split(gates.astype(wide)), cells)

    def step(cotangent: State, at: tuple[Array, Any, Array]) -> tuple[State, Array]:
        time, kept, output_cotangent = at
        dh = cotangent.output + output_cotangent.astype(wide)
        slopes = kept if ahead else slopes_of(*kept)
        sums, dc = steps.pull_back(slopes, cotangent.cell, dh)
        dz = jnp.concatenate(sums, axis=-1).astype(dtype)
        if lengths is None:
            return State(dc, product(dz, recurrent_kernel.T)), dz
        takes_part = (time < lengths)[:, None]
        dz = jnp.where(takes_part, dz, 0)
        before = State(
            jnp.where(takes_part, dc, cotangent.cell),
            jnp.where(takes_part, product(dz, recurrent_kernel.T), cotangent.output),
        )
        return before, dz

    last_cotangent = State(*(array.astype(wide) for array in last_cotangent))
    kept = slopes_of(gates, cells) if ahead else (gates, cells)
    by_time = (jnp.arange(gates.shape[0], dtype=jnp.int32), kept, output_cotangents)
    first_cotangent, dz = jax.lax.scan(step, last_cotangent, by_time, reverse=not reverse)
    return dz, first_cotangent


def accumulator(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of c, and of sums over numbers of a dtype: float32, or float64 for float64."""
    # NumPy's, since JAX's refuses bfloat16 where promotion is strict.
    return np.promote_types(dtype, np.float32)


def product(a: Array, b: Array) -> Array:
    """A matrix product of operands of one dtype, in that of its sums."""
    return jnp.matmul(a, b, preferred_element_type=accumulator(a.dtype))
