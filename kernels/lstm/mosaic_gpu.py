"""The recurrence as one Pallas kernel a direction, for NVIDIA Hopper GPUs (sm_90a).

R lies in shared memory throughout, c in registers. Every product is computed transposed: the
gates' units are the rows that the matrix unit wants by 64, and the batch, which may be small, is
the columns. Up to 128 units one thread block holds R (`mosaic_gpu_block`); up to 448 a cluster of
blocks does (`mosaic_gpu_cluster`).

Arrays have the batch as their last axis here: `[time, gates, batch]`.
"""

from types import ModuleType
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels import shapes
from kernels.lstm import mosaic_gpu_block, mosaic_gpu_cluster
from kernels.lstm.mosaic_gpu_tile import Layout
from kernels.lstm.types import State, Trace


def refusal(batch: int, time: int, hidden: int, dtype: Any) -> str | None:
    """Why this implementation cannot serve such a call, or None."""
    del batch, time
    if jnp.dtype(dtype) != jnp.bfloat16:
        return f"the matrix units have no {jnp.dtype(dtype)} product: it takes bfloat16"
    if hidden > mosaic_gpu_cluster.MAXIMUM_HIDDEN:
        return (
            f"R of {hidden} units does not fit in the shared memory of a cluster: "
            f"{mosaic_gpu_cluster.MAXIMUM_HIDDEN} are the most"
        )
    return None


def unproved(hidden: int) -> str | None:
    """Why nobody should get this implementation who does not ask for it by name, or None."""
    if hidden > mosaic_gpu_block.MAXIMUM_HIDDEN:
        return f"a cluster of thread blocks, as {hidden} units need, has not run on a GPU yet"
    return None


def _kernels(layout: Layout) -> ModuleType:
    """Who holds R: a block, or a cluster of blocks."""
    fits = layout.hidden <= mosaic_gpu_block.MAXIMUM_HIDDEN
    return mosaic_gpu_block if fits else mosaic_gpu_cluster


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
    layout = Layout(time, batch, recurrent_kernel.shape[0])
    arguments = (
        layout.enter(projected, 4),
        layout.kernel(recurrent_kernel).T,
        layout.enter(first.cell, 1),
        layout.enter(first.output, 1),
        layout.limits(lengths),
    )
    hidden, columns, dtype = layout.hidden, layout.batch, projected.dtype
    kept = {"outputs": 1, "cells": 2, "gates": 3}[keep]
    traced = [
        shapes.like((time, hidden, columns), dtype, *arguments),
        shapes.like((time, hidden, columns), jnp.float32, *arguments),
        shapes.like((time, 4 * hidden, columns), dtype, *arguments),
    ][:kept]
    last = [
        shapes.like((hidden, columns), jnp.float32, *arguments),
        shapes.like((hidden, columns), dtype, *arguments),
    ]
    results = _kernels(layout).forward(layout, reverse, (*traced, *last), arguments)
    trace = [
        layout.leave(array, gates) for array, gates in zip(results[:kept], (1, 1, 4), strict=False)
    ]
    last_state = State(*(layout.leave(array, 1) for array in results[kept:]))
    return Trace(*trace, *[None] * (3 - kept)), last_state


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
    layout = Layout(time, batch, recurrent_kernel.shape[0])
    arguments = (
        layout.enter(gates, 4),
        layout.enter(cells, 1),
        layout.enter(output_cotangents, 1),
        layout.kernel(recurrent_kernel),
        layout.enter(last_cotangent.cell.astype(jnp.float32), 1),
        layout.enter(last_cotangent.output.astype(jnp.float32), 1),
        layout.limits(lengths),
    )
    hidden, columns, dtype = layout.hidden, layout.batch, gates.dtype
    state = shapes.like((hidden, columns), jnp.float32, *arguments)
    sums = shapes.like((time, 4 * hidden, columns), dtype, *arguments)
    # It takes the steps the other way.
    dz, cell, output = _kernels(layout).backward(
        layout, not reverse, (sums, state, state), arguments
    )
    return layout.leave(dz, 4), State(layout.leave(cell, 1), layout.leave(output, 1))
