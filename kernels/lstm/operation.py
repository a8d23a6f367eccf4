"""The public function: what it computes around a recurrence, and its gradient.

The inputs' product x W over all steps is one large matrix product before the recurrence, and the
gradients of W, R, b and x are large matrix products after it: only what a step needs of the step
before is left to the implementation.
"""

import dataclasses
import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kernels import dispatch, shapes
from kernels.lstm import dispatch as lstm_dispatch
from kernels.lstm import reference, steps
from kernels.lstm.types import Params, State
from kernels.lstm.xla import accumulator, product


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is fixed while a call is traced."""

    recurrence: ModuleType
    reverse: bool
    recompute: bool


def lstm(
    inputs: Float[Array, "batch time features"],
    params: Params,
    initial_state: State | None = None,
    lengths: Int[Array, " batch"] | None = None,
    *,
    reverse: bool = False,
    implementation: str | None = None,
    recompute: bool = False,
) -> tuple[Float[Array, "batch time hidden"], State]:
    """One LSTM layer over whole sequences.

    Differentiable in inputs, parameters and initial state. Products take operands of the inputs'
    dtype and sum in float32; c is float32; what the backward pass needs is kept in the inputs'
    dtype. How exact XLA's float32 products are is for `jax.default_matmul_precision` to say: by
    default a GPU takes TF32, and a TPU one pass of bfloat16. The TPU's kernel takes all of float32.

    Args:
      inputs: x, float32 or bfloat16; or float64, in which case all is float64, by XLA.
      params: W, R and b; converted to the inputs' dtype.
      initial_state: c and h before the first step that a row takes; zero by default.
      lengths: steps of each row, from 0 to `time`; all by default. Past its end a row's output is
        zero and its state stays; its inputs there may be anything, NaN included.
      reverse: take the steps against time: a row begins at its own end.
      implementation: "auto", "reference" (float32, differentiated by JAX), "xla", "mosaic_gpu" or
        "mosaic_tpu"; None for that of `dispatch.using`. `explain` says what "auto" picks and why.
      recompute: do not keep the gates for the backward pass, which then recomputes them by one
        matrix product more over all steps: 4 numbers a unit and step less to hold.

    Returns:
      h after every step, and the state after the last one.

    Raises:
      ValueError: the shapes or dtypes do not fit each other, or the named implementation cannot
        serve this call; the message says why.
    """
    _check(inputs, params, initial_state, lengths)
    batch, time, _ = inputs.shape
    hidden = params.recurrent_kernel.shape[0]
    params = Params(*(array.astype(inputs.dtype) for array in params))
    if initial_state is None:
        initial_state = State(*(jnp.zeros((batch, hidden), jnp.float32) for _ in range(2)))
    first = State(
        initial_state.cell.astype(accumulator(inputs.dtype)),
        initial_state.output.astype(inputs.dtype),
    )
    chosen = dispatch.record(
        lstm_dispatch.choose(implementation, batch, time, hidden, inputs.dtype)
    )
    recurrence = lstm_dispatch.RECURRENCES.get(chosen.implementation)
    inputs, params, first, lengths = shapes.vary_alike((inputs, params, first, lengths))
    # Times a cotangent of zero, a NaN behind a row's end would still reach the gradient of W.
    inputs = _ended(inputs.swapaxes(0, 1), lengths).swapaxes(0, 1)
    if recurrence is None or not inputs.size or not hidden:
        return reference.lstm(inputs, params, first, lengths, reverse=reverse)
    plan = _Plan(recurrence, reverse, recompute)
    outputs, last = _sequence(plan, inputs.swapaxes(0, 1), params, first, lengths)
    return outputs.swapaxes(0, 1), last


def lstm_cell(
    inputs: Float[Array, "batch features"],
    params: Params,
    state: State,
    *,
    implementation: str | None = None,
) -> State:
    """One step: the state after it; `state.output` is the step's output.

    Arguments and errors are those of `lstm`.
    """
    _, state = lstm(inputs[:, None], params, state, implementation=implementation)
    return state


def explain(batch: int, time: int, hidden: int, dtype: Any) -> dict[str, str]:
    """Whether each implementation serves such a call on this device, or why not.

    Under "auto": which one is picked, and why.

    Args:
      batch: number of sequences.
      time: number of steps.
      hidden: number of units.
      dtype: of the inputs.

    Raises:
      ValueError: no call has inputs of that dtype.
    """
    _check_dtype(dtype)
    chosen = lstm_dispatch.choose("auto", batch, time, hidden, dtype)
    told = dispatch.explain(lstm_dispatch.refusals(batch, time, hidden, dtype))
    return {**told, "auto": f"{chosen.implementation}: {chosen.reason}"}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sequence(
    plan: _Plan, inputs: Array, params: Params, first: State, lengths: Array | None
) -> tuple[Array, State]:
    """`lstm` with time as the first axis."""
    (outputs, last), _ = _run(plan, inputs, params, first, lengths, keep="outputs")
    return outputs, last


def _run(
    plan: _Plan,
    inputs: Array,
    params: Params,
    first: State,
    lengths: Array | None,
    keep: str,
) -> tuple[tuple[Array, State], Any]:
    projected = _project(inputs, params).astype(inputs.dtype)
    trace, last = plan.recurrence.forward(
        projected, params.recurrent_kernel, first, lengths, reverse=plan.reverse, keep=keep
    )
    return (_ended(trace.outputs, lengths), last), trace


def _forward(
    plan: _Plan, inputs: Array, params: Params, first: State, lengths: Array | None
) -> tuple[tuple[Array, State], Any]:
    keep = "cells" if plan.recompute else "gates"
    results, trace = _run(plan, inputs, params, first, lengths, keep)
    return results, (inputs, params, first, lengths, trace)


def _backward(plan: _Plan, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    inputs, params, first, lengths, trace = residuals
    output_cotangents, last_cotangent = cotangents
    gates = trace.gates
    if gates is None:
        gates = _gates(plan, inputs, params, first, trace.outputs)
    dz, first_cotangent = plan.recurrence.backward(
        params.recurrent_kernel,
        gates,
        trace.cells,
        lengths,
        _ended(output_cotangents, lengths),
        last_cotangent,
        reverse=plan.reverse,
    )
    recurrent = _over_steps(_ended(_before(plan, first, trace.outputs), lengths), dz)
    gradients = Params(
        _over_steps(inputs, dz),
        recurrent,
        dz.sum((0, 1), dtype=accumulator(dz.dtype)),
    )
    input_cotangents = product(dz, params.input_kernel.T).astype(inputs.dtype)
    no_lengths = None if lengths is None else np.zeros(lengths.shape, jax.dtypes.float0)
    return (
        input_cotangents,
        Params(*(array.astype(inputs.dtype) for array in gradients)),
        State(first_cotangent.cell, first_cotangent.output.astype(inputs.dtype)),
        no_lengths,
    )


_sequence.defvjp(_forward, _backward)


def _project(inputs: Array, params: Params) -> Array:
    """The inputs' part of the sums, x W + b, not rounded yet."""
    return product(inputs, params.input_kernel) + params.bias.astype(accumulator(inputs.dtype))


def _gates(plan: _Plan, inputs: Array, params: Params, first: State, outputs: Array) -> Array:
    """The gates of all steps at once, from the outputs that are known by now."""
    previous = _before(plan, first, outputs)
    # Rounded as in the forward pass.
    projected = _project(inputs, params).astype(inputs.dtype)
    # The sum is in the wider of the two dtypes.
    sums = projected + product(previous, params.recurrent_kernel)
    return jnp.concatenate(steps.activate(steps.split(sums)), axis=-1).astype(inputs.dtype)


def _before(plan: _Plan, first: State, outputs: Array) -> Array:
    """The h before every step."""
    begin = first.output[None]
    parts = [outputs[1:], begin] if plan.reverse else [begin, outputs[:-1]]
    return jnp.concatenate(parts)


def _over_steps(a: Array, b: Array) -> Array:
    """The sum over steps and rows of the outer products, `[a's last, b's last]`."""
    return product(a.reshape(-1, a.shape[-1]).T, b.reshape(-1, b.shape[-1]))


def _ended(outputs: Array, lengths: Array | None) -> Array:
    """Zero in the steps that a row takes no part in; time is the first axis."""
    if lengths is None:
        return outputs
    takes_part = jnp.arange(outputs.shape[0], dtype=lengths.dtype)[:, None] < lengths
    return jnp.where(takes_part[..., None], outputs, 0)


def _check_dtype(dtype: Any) -> None:
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16, jnp.float64):
        raise ValueError(f"inputs are float32, bfloat16 or float64, not {jnp.dtype(dtype)}")


def _check(inputs: Array, params: Params, state: State | None, lengths: Array | None) -> None:
    if inputs.ndim != 3:
        raise ValueError(f"inputs are [batch, time, features], not of shape {inputs.shape}")
    _check_dtype(inputs.dtype)
    if lengths is not None and not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths are integers, not {lengths.dtype}")
    batch, _, features = inputs.shape
    hidden = params.recurrent_kernel.shape[0]
    expected = {
        "input_kernel": (params.input_kernel, (features, 4 * hidden)),
        "recurrent_kernel": (params.recurrent_kernel, (hidden, 4 * hidden)),
        "bias": (params.bias, (4 * hidden,)),
    }
    if state is not None:
        expected["initial_state.cell"] = (state.cell, (batch, hidden))
        expected["initial_state.output"] = (state.output, (batch, hidden))
    if lengths is not None:
        expected["lengths"] = (lengths, (batch,))
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(
                f"{name} has shape {array.shape}: for inputs {inputs.shape} and {hidden} units it "
                f"is {shape}"
            )
