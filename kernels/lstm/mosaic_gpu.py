"""The recurrence as Pallas kernels, for NVIDIA Hopper GPUs (sm_90a).

Every product is computed transposed: gates or units are the rows that the matrix unit wants by 64,
and the batch, which may be small, is the columns. Who holds R decides the rest: up to 128 units one
thread block does (`mosaic_gpu_block`), up to 448 a cluster of blocks (`mosaic_gpu_cluster`), up to
some 1600, by the batch, a grid of blocks that all run at once (`mosaic_gpu_grid`), and else nobody
(`mosaic_gpu_step`).
"""

from types import ModuleType
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels import shapes
from kernels.lstm import (
    mosaic_gpu_block,
    mosaic_gpu_cluster,
    mosaic_gpu_grid,
    mosaic_gpu_share,
    mosaic_gpu_step,
    mosaic_gpu_tile,
)
from kernels.lstm.types import State, Trace


def refusal(batch: int, time: int, hidden: int, dtype: Any) -> str | None:
    """Why this implementation cannot serve such a call, or None."""
    del batch, time, hidden
    if jnp.dtype(dtype) != jnp.bfloat16:
        return f"the matrix units have no {jnp.dtype(dtype)} product: it takes bfloat16"
    return None


def unproved(batch: int, hidden: int) -> str | None:
    """Why nobody should get this implementation who does not ask for it by name, or None."""
    for path, blocks in ((mosaic_gpu_cluster, "a cluster"), (mosaic_gpu_grid, "a grid")):
        if path in paths(batch, hidden):
            return (
                f"{blocks} of thread blocks that exchange their results, as {batch} rows of "
                f"{hidden} units get, has not run on a GPU yet"
            )
    return None


def paths(batch: int, hidden: int) -> tuple[ModuleType, ModuleType]:
    """Whose kernels serve a call, forward and backward."""
    forward, backward = (_plan(1, batch, hidden, sent)[0] for sent in (1, 4))
    return forward, backward


def _plan(time: int, batch: int, hidden: int, sent: int) -> tuple[ModuleType, Any]:
    """Who serves a call, and its layout there; for `sent` see `mosaic_gpu_grid.layout`."""
    if hidden <= mosaic_gpu_block.MAXIMUM_HIDDEN:
        return mosaic_gpu_block, mosaic_gpu_tile.Layout(time, batch, hidden)
    if hidden <= mosaic_gpu_cluster.MAXIMUM_HIDDEN:
        return mosaic_gpu_cluster, mosaic_gpu_tile.Layout(time, batch, hidden)
    if found := mosaic_gpu_grid.layout(time, batch, hidden, sent):
        return mosaic_gpu_grid, found
    return mosaic_gpu_step, mosaic_gpu_share.Layout(time, batch, hidden)


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
    path, layout = _plan(time, batch, recurrent_kernel.shape[0], sent=1)
    arguments = (
        layout.enter(projected, 4),
        layout.forward_kernel(recurrent_kernel),
        layout.enter(first.cell, 1),
        layout.enter(first.output, 1),
        layout.limits(lengths),
    )
    dtype, state, gates = projected.dtype, layout.shape(1), layout.shape(4)
    kept = {"outputs": 1, "cells": 2, "gates": 3}[keep]
    traced = [
        shapes.like((time, *state), dtype, *arguments),
        shapes.like((time, *state), jnp.float32, *arguments),
        shapes.like((time, *gates), dtype, *arguments),
    ][:kept]
    last = [shapes.like(state, jnp.float32, *arguments), shapes.like(state, dtype, *arguments)]
    results = path.forward(layout, reverse, (*traced, *last), arguments)
    trace = [
        layout.leave(array, number)
        for array, number in zip(results[:kept], (1, 1, 4), strict=False)
    ]
    last_state = State(*(layout.leave(array, 1) for array in results[kept:]))
    return Trace(*trace, *[None] * (3 - kept)), last_state


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
    path, layout = _plan(time, batch, recurrent_kernel.shape[0], sent=4)
    arguments = (
        layout.enter(gates, 4),
        layout.enter(cells, 1),
        layout.enter(output_cotangents, 1),
        layout.backward_kernel(recurrent_kernel),
        layout.enter(last_cotangent.cell.astype(jnp.float32), 1),
        layout.enter(last_cotangent.output.astype(jnp.float32), 1),
        layout.limits(lengths),
    )
    state = shapes.like(layout.shape(1), jnp.float32, *arguments)
    sums = shapes.like((time, *layout.shape(4)), gates.dtype, *arguments)
    # It takes the steps the other way.
    dz, cell, output = path.backward(layout, not reverse, (sums, state, state), arguments)
    return layout.leave(dz, 4), State(layout.leave(cell, 1), layout.leave(output, 1))
