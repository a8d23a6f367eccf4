"""The recurrence as one Pallas kernel a direction, for TPUs.

R stays in VMEM and c and h in scratch memory for the whole sequence; the grid is (tiles of the
batch, chunks of time), and a grid step takes several steps of its tile. What a chunk reads and
writes moves while its neighbors are computed. Rows past their end, and what pads a tile, keep
their state.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from kernels import dispatch, shapes
from kernels.lstm import steps
from kernels.lstm.types import State, Trace

# Two buffers of all that a grid step reads and writes, at most.
_BLOCK_BYTES = 24 * 2**20
_LANES = 128
_MAXIMUM_ROWS = 256
_MAXIMUM_STEPS = 16
# Units that are computed at once: a loop over them keeps the code and its live values small.
_UNITS = 256


def refusal(batch: int, time: int, hidden: int, dtype: Any) -> str | None:
    """Why this implementation cannot serve such a call, or None."""
    del time
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        return f"it takes float32 and bfloat16, not {jnp.dtype(dtype)}"
    resident, block = _bytes(batch, shapes.round_up(hidden, _LANES), jnp.dtype(dtype))
    needed, most = resident + 2 * block, dispatch.vmem_bytes()
    if needed <= most:
        return None
    return (
        f"{hidden} units need {needed / 2**20:.0f} MiB of VMEM for R, the state and one step, and "
        f"{most / 2**20:.0f} are available"
    )


def _bytes(batch: int, hidden: int, dtype: Any) -> tuple[int, int]:
    """What stays in VMEM, and what one step reads and writes at most."""
    size = jnp.dtype(dtype).itemsize
    rows = _rows(batch, dtype)
    # R, the state and its next value, and the values of one group of units.
    resident = 4 * hidden * hidden * size + rows * hidden * 4 * 4 + rows * _UNITS * 16 * 4
    return resident, rows * hidden * (8 * size + 2 * 4)


def _rows(batch: int, dtype: Any) -> int:
    """Rows of a tile: whole registers, and as equal tiles as can be."""
    sublanes = 8 * 4 // jnp.dtype(dtype).itemsize
    tiles = max(1, pl.cdiv(batch, _MAXIMUM_ROWS))
    return shapes.round_up(pl.cdiv(batch, tiles), sublanes)


class _Tiling:
    """Sizes, padded sizes and blocks of a call."""

    def __init__(self, time: int, batch: int, hidden: int, dtype: Any, reverse: bool) -> None:
        self.hidden = shapes.round_up(hidden, _LANES)
        self.rows = _rows(batch, dtype)
        self.batch = shapes.round_up(batch, self.rows)
        resident, block = _bytes(batch, self.hidden, dtype)
        room = min(_BLOCK_BYTES, dispatch.vmem_bytes() - resident)
        most = max(1, min(_MAXIMUM_STEPS, time, room // (2 * block)))
        self.chunks = pl.cdiv(time, most)
        self.steps = pl.cdiv(time, self.chunks)
        self.time = self.chunks * self.steps
        self.reverse = reverse
        self.actual = time, batch, hidden

    @property
    def units(self) -> int:
        """Units that are computed at once, a divisor of all."""
        return _UNITS if self.hidden % _UNITS == 0 else _LANES

    @property
    def grid(self) -> tuple[int, int]:
        return self.batch // self.rows, self.chunks

    def by_time(self, gates: int) -> pl.BlockSpec:
        """Blocks of an array `[time, batch, gates * hidden]`, in the order of the steps."""

        def index(tile: Any, chunk: Any) -> tuple[Any, Any, int]:
            return (self.chunks - 1 - chunk if self.reverse else chunk), tile, 0

        return pl.BlockSpec((self.steps, self.rows, gates * self.hidden), index)

    def by_row(self, columns: int) -> pl.BlockSpec:
        """Blocks of an array `[batch, columns]`."""
        return pl.BlockSpec((self.rows, columns), lambda tile, chunk: (tile, 0))

    def pad(self, array: Array, gates: int) -> Array:
        """Fills the last axis, gate by gate, and the batch and time before it, with zeros."""
        *leading, _ = array.shape
        array = array.reshape(*leading, gates, -1)
        sizes = (*(self.time, self.batch)[-len(leading) :], gates, self.hidden)
        return shapes.pad_to(array, sizes).reshape(*sizes[:-2], -1)

    def pad_kernel(self, kernel: Array) -> Array:
        """R, `[hidden, gates * hidden]`."""
        _, _, hidden = self.actual
        sizes = (self.hidden, 4, self.hidden)
        return shapes.pad_to(kernel.reshape(hidden, 4, hidden), sizes).reshape(self.hidden, -1)

    def limits(self, lengths: Array | None) -> Array:
        """The steps that each row takes, `[batch, 1]`: none for rows that only fill a tile."""
        time, batch, _ = self.actual
        limits = jnp.full(batch, time, jnp.int32) if lengths is None else lengths.astype(jnp.int32)
        return shapes.pad_to(jnp.minimum(limits, time), (self.batch,))[:, None]

    def cut(self, array: Array, gates: int) -> Array:
        """Undoes `pad`."""
        *leading, _ = array.shape
        time, batch, hidden = self.actual
        array = array.reshape(*leading, gates, self.hidden)
        sizes = (*(time, batch)[-len(leading) :], gates, hidden)
        array = array[tuple(slice(size) for size in sizes)]
        return array.reshape(*sizes[:-2], gates * hidden)

    def own(self, group: Any, gate: int = 0) -> Any:
        """The columns of a group of units in an array of gates, or of units."""
        first = pl.multiple_of(gate * self.hidden + group * self.units, self.units)
        return pl.ds(first, self.units)

    def index(self, position: Any) -> Any:
        """The place in a chunk of its step number `position`."""
        return self.steps - 1 - position if self.reverse else position

    def first_time(self) -> Any:
        """The time of a chunk's place 0."""
        chunk = pl.program_id(1)
        return (self.chunks - 1 - chunk if self.reverse else chunk) * self.steps


def _parameters() -> pltpu.CompilerParams:
    return pltpu.CompilerParams(
        dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=dispatch.vmem_bytes()
    )


@shapes.in_32_bits
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
    time, batch, _ = projected.shape
    dtype = projected.dtype
    tiling = _Tiling(time, batch, recurrent_kernel.shape[0], dtype, reverse)
    kept = {"outputs": 1, "cells": 2, "gates": 3}[keep]
    shape = (tiling.time, tiling.batch)
    traced = [
        ((*shape, tiling.hidden), dtype, tiling.by_time(1)),
        ((*shape, tiling.hidden), jnp.float32, tiling.by_time(1)),
        ((*shape, 4 * tiling.hidden), dtype, tiling.by_time(4)),
    ][:kept]
    state = (tiling.batch, tiling.hidden)
    last = [
        (state, jnp.float32, tiling.by_row(tiling.hidden)),
        (state, dtype, tiling.by_row(tiling.hidden)),
    ]
    arguments = (
        tiling.limits(lengths),
        tiling.pad(projected, 4),
        tiling.pad_kernel(recurrent_kernel),
        tiling.pad(first.cell, 1),
        tiling.pad(first.output, 1),
    )
    results = pl.pallas_call(
        functools.partial(_forward_body, tiling, kept),
        grid=tiling.grid,
        in_specs=[
            tiling.by_row(1),
            tiling.by_time(4),
            _resident(arguments[2]),
            tiling.by_row(tiling.hidden),
            tiling.by_row(tiling.hidden),
        ],
        out_specs=[spec for _, _, spec in traced + last],
        out_shape=[shapes.like(shape, dtype, *arguments) for shape, dtype, _ in traced + last],
        scratch_shapes=[
            pltpu.VMEM((tiling.rows, tiling.hidden), jnp.float32),
            pltpu.VMEM((tiling.rows, tiling.hidden), dtype),
            pltpu.VMEM((tiling.rows, tiling.hidden), dtype),
        ],
        compiler_params=_parameters(),
        name="lstm_forward",
    )(*arguments)
    gates = (1, 1, 4)
    trace: list[Any] = [tiling.cut(results[i], gates[i]) for i in range(kept)]
    trace += [None] * (3 - kept)
    return Trace(*trace), State(*(tiling.cut(array, 1) for array in results[kept:]))


def _resident(kernel: Array) -> pl.BlockSpec:
    """R, the same for the whole grid: one buffer is enough."""
    return pl.BlockSpec(
        kernel.shape,
        lambda tile, chunk: (0, 0),
        pipeline_mode=pl.Buffered(1),
    )


def _forward_body(
    tiling: _Tiling,
    kept: int,
    limits: Any,
    projected: Any,
    kernel: Any,
    first_cell: Any,
    first_output: Any,
    *rest: Any,
) -> None:
    traced, (last_cell, last_output, cell, output, next_output) = rest[:kept], rest[kept:]

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        cell[...] = first_cell[...]
        output[...] = first_output[...]

    first_time = tiling.first_time()

    def step(position: Any, _: None) -> None:
        place = tiling.index(position)
        takes_part = first_time + place < limits[...]

        def group(number: Any, _: None) -> None:
            own = tiling.own(number)
            before = cell[:, own]
            gates = steps.activate(
                steps.by_gate(
                    lambda gate: (
                        projected[place, :, tiling.own(number, gate)].astype(jnp.float32)
                        + _product(output[...], kernel[:, tiling.own(number, gate)])
                    )
                )
            )
            after, output_after = steps.advance(gates, before)
            output_after = output_after.astype(output.dtype)
            cell[:, own] = jnp.where(takes_part, after, before)
            next_output[:, own] = jnp.where(takes_part, output_after, output[:, own])
            if kept > 1:
                traced[1][place, :, own] = before
            if kept > 2:
                for gate, value in enumerate(gates):
                    traced[2][place, :, tiling.own(number, gate)] = value.astype(traced[2].dtype)

        jax.lax.fori_loop(0, tiling.hidden // tiling.units, group, None)
        output[...] = next_output[...]
        traced[0][place] = output[...]

    jax.lax.fori_loop(0, tiling.steps, step, None)
    last_cell[...] = cell[...]
    last_output[...] = output[...]


@shapes.in_32_bits
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
    """See `Recurrence.backward`."""
    time, batch, _ = gates.shape
    dtype = gates.dtype
    tiling = _Tiling(time, batch, recurrent_kernel.shape[0], dtype, not reverse)
    arguments = (
        tiling.limits(lengths),
        tiling.pad(gates, 4),
        tiling.pad(cells, 1),
        tiling.pad(output_cotangents, 1),
        tiling.pad_kernel(recurrent_kernel).T,
        tiling.pad(last_cotangent.cell.astype(jnp.float32), 1),
        tiling.pad(last_cotangent.output.astype(jnp.float32), 1),
    )
    state = (tiling.batch, tiling.hidden)
    dz, cell, output = pl.pallas_call(
        functools.partial(_backward_body, tiling),
        grid=tiling.grid,
        in_specs=[
            tiling.by_row(1),
            tiling.by_time(4),
            tiling.by_time(1),
            tiling.by_time(1),
            _resident(arguments[4]),
            tiling.by_row(tiling.hidden),
            tiling.by_row(tiling.hidden),
        ],
        out_specs=[
            tiling.by_time(4),
            tiling.by_row(tiling.hidden),
            tiling.by_row(tiling.hidden),
        ],
        out_shape=[
            shapes.like((tiling.time, tiling.batch, 4 * tiling.hidden), dtype, *arguments),
            shapes.like(state, jnp.float32, *arguments),
            shapes.like(state, jnp.float32, *arguments),
        ],
        scratch_shapes=[pltpu.VMEM((tiling.rows, tiling.hidden), jnp.float32)] * 3,
        compiler_params=_parameters(),
        name="lstm_backward",
    )(*arguments)
    return tiling.cut(dz, 4), State(tiling.cut(cell, 1), tiling.cut(output, 1))


def _backward_body(
    tiling: _Tiling,
    limits: Any,
    gates: Any,
    cells: Any,
    output_cotangents: Any,
    kernel: Any,
    last_cell: Any,
    last_output: Any,
    dz: Any,
    first_cell: Any,
    first_output: Any,
    cell: Any,
    output: Any,
    before: Any,
) -> None:
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        cell[...] = last_cell[...]
        output[...] = last_output[...]

    first_time = tiling.first_time()

    def step(position: Any, _: None) -> None:
        place = tiling.index(position)
        takes_part = first_time + place < limits[...]
        before[...] = jnp.where(takes_part, 0, output[...])

        def group(number: Any, _: None) -> None:
            own = tiling.own(number)
            dc = cell[:, own]
            total = output[:, own] + output_cotangents[place, :, own].astype(jnp.float32)
            four = steps.by_gate(
                lambda gate: gates[place, :, tiling.own(number, gate)].astype(jnp.float32)
            )
            sums, dc_before = steps.retreat(four, cells[place, :, own], dc, total)
            cell[:, own] = jnp.where(takes_part, dc_before, dc)
            for gate, value in enumerate(sums):
                columns = tiling.own(number, gate)
                value = jnp.where(takes_part, value, 0).astype(dz.dtype)
                dz[place, :, columns] = value
                before[...] += _product(value, kernel[columns, :])

        jax.lax.fori_loop(0, tiling.hidden // tiling.units, group, None)
        output[...] = before[...]

    jax.lax.fori_loop(0, tiling.steps, step, None)
    first_cell[...] = cell[...]
    first_output[...] = output[...]


def _product(rows: Array, kernel: Array) -> Array:
    """A matrix product, summed in float32."""
    precision = "highest" if rows.dtype == jnp.float32 else None
    return jnp.matmul(rows, kernel, precision=precision, preferred_element_type=jnp.float32)
