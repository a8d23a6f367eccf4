"""The recurrence for NVIDIA Hopper within one thread block: up to 128 units.

A thread block takes a tile of the batch through the whole sequence, so that blocks never wait for
each other. R lies in its shared memory throughout; c stays in registers. A warpgroup owns a tile,
64 units and all four of their gates, so that a step's arithmetic needs no other warpgroup; h (and
backward, the gates' cotangents) pass through shared memory, and one barrier a step orders that. The
next step's inputs arrive by asynchronous copies meanwhile.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from kernels.lstm import steps
from kernels.lstm.mosaic_gpu_tile import COLUMNS, TILE, Layout, Tile, launch, tiled

MAXIMUM_HIDDEN = 128
# Buffers of what a step reads: one is read while the other one fills.
_SLOTS = 2


def forward(
    layout: Layout, reverse: bool, results: Sequence[Any], arguments: Sequence[Array]
) -> Sequence[Array]:
    """The kernel's call; see `mosaic_gpu.forward` for what goes in and comes out."""
    dtype, parts, kept = arguments[0].dtype, layout.parts, len(results) - 2
    staged = [tiled((parts, *TILE), jnp.float32), tiled((parts, 4, *TILE), dtype)][: kept - 1]
    scratch = {
        "kernel": tiled((4 * layout.hidden, layout.hidden), dtype),
        "outputs": tiled((2, layout.hidden, COLUMNS), dtype),
        "inputs": tiled((parts, _SLOTS, 4, *TILE), dtype),
        "staged": staged,
        "arrived": plgpu.Barrier(num_arrivals=4, num_barriers=parts * _SLOTS),
        "kernel_arrived": plgpu.Barrier(num_arrivals=1),
        "step_done": plgpu.Barrier(num_arrivals=parts),
    }

    def run(references: Sequence[Any], memory: dict[str, Any]) -> None:
        _Forward(layout, reverse, references, memory).run()

    return _launch(layout, run, results, scratch, "lstm_forward")(*arguments)


def backward(
    layout: Layout, reverse: bool, results: Sequence[Any], arguments: Sequence[Array]
) -> Sequence[Array]:
    """The kernel's call; see `mosaic_gpu.backward` for what goes in and comes out."""
    dtype, parts = arguments[0].dtype, layout.parts
    scratch = {
        "kernel": tiled((layout.hidden, 4 * layout.hidden), dtype),
        "dz": tiled((2, 4 * layout.hidden, COLUMNS), dtype),
        "gates": tiled((parts, _SLOTS, 4, *TILE), dtype),
        "cells": tiled((parts, _SLOTS, *TILE), jnp.float32),
        "outputs": tiled((parts, _SLOTS, *TILE), dtype),
        # Four gates, c, and the outputs' cotangents.
        "arrived": plgpu.Barrier(num_arrivals=6, num_barriers=parts * _SLOTS),
        "kernel_arrived": plgpu.Barrier(num_arrivals=1),
        "step_done": plgpu.Barrier(num_arrivals=parts),
    }

    def run(references: Sequence[Any], memory: dict[str, Any]) -> None:
        _Backward(layout, reverse, references, memory).run()

    return _launch(layout, run, results, scratch, "lstm_backward")(*arguments)


def _launch(layout: Layout, *rest: Any) -> Any:
    return launch(layout, *rest, num_threads=layout.parts, thread_name="warpgroup")


class _Kernel:
    """What both directions share: a warpgroup's place, and how its memory is filled."""

    def __init__(self, layout: Layout, memory: dict[str, Any]) -> None:
        self.layout, self.memory = layout, memory
        self.group = lax.axis_index("warpgroup")

    def arrived(self, slot: Any) -> Any:
        """The barrier of what a step reads."""
        return self.memory["arrived"].at[self.group * _SLOTS + slot]

    def begin(self, kernel: Any) -> None:
        """Starts the copies of R and of what the first steps read."""

        @pl.when(self.group == 0)
        def _() -> None:
            plgpu.copy_gmem_to_smem(kernel, self.memory["kernel"], self.memory["kernel_arrived"])

        for step in range(min(_SLOTS, self.layout.time)):
            self.fetch(jnp.int32(step))

    def fetch_after(self, step: Any) -> None:
        """Starts the copies into the slot that this step has read."""

        @pl.when(step + _SLOTS < self.layout.time)
        def _() -> None:
            self.fetch(step + _SLOTS)

    def fetch(self, step: Any) -> None:
        """Starts the copies of what a step reads."""
        raise NotImplementedError

    def meet(self) -> None:
        """Waits for the block's other warpgroups."""
        plgpu.barrier_arrive(self.memory["step_done"])
        plgpu.barrier_wait(self.memory["step_done"])


class _Forward(_Kernel):
    """A warpgroup's share of the forward pass."""

    def __init__(
        self, layout: Layout, reverse: bool, references: Sequence[Any], memory: dict[str, Any]
    ) -> None:
        super().__init__(layout, memory)
        self.projected, self.kernel, self.first_cell, self.first_output, limits = references[:5]
        *self.traced, self.last_cell, self.last_output = references[5:]
        self.tile = Tile(layout, self.group, reverse, limits)

    def run(self) -> None:
        """All steps."""
        self.begin(self.kernel)
        cell, output = self.tile.load(self.first_cell), self.tile.load(self.first_output)
        self.memory["outputs"][0, self.tile.units] = output
        plgpu.commit_smem()
        plgpu.barrier_wait(self.memory["kernel_arrived"])
        self.meet()
        cell, output = lax.fori_loop(0, self.layout.time, self.advance, (cell, output))
        self.tile.store(self.last_cell, cell)
        self.tile.store(self.last_output, output)
        plgpu.wait_smem_to_gmem(0)

    def fetch(self, step: Any) -> None:
        slot = lax.rem(step, _SLOTS)
        for number in range(4):
            plgpu.copy_gmem_to_smem(
                self.projected.at[self.tile.time(step), self.tile.gate(number), self.tile.rows],
                self.memory["inputs"].at[self.group, slot, number],
                self.arrived(slot),
            )

    def advance(self, step: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        """One step."""
        cell, output = carry
        slot, now = lax.rem(step, _SLOTS), lax.rem(step, 2)
        sums = self.products(now)
        plgpu.barrier_wait(self.arrived(slot))
        for number in range(4):
            own = self.memory["inputs"].at[self.group, slot, number]
            sums[number] += plgpu.load(own, layout=plgpu.Layout.WGMMA).astype(jnp.float32)
        gates, after, output_after = self.tile.advance(step, sums, cell, output)
        # What the last step left must have been read before it is overwritten.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        self.memory["outputs"][1 - now, self.tile.units] = output_after
        self.stage(cell, gates)
        plgpu.commit_smem()
        self.fetch_after(step)
        self.write(step, self.memory["outputs"].at[1 - now, self.tile.units])
        self.meet()
        return after, output_after

    def products(self, now: Any) -> list[Array]:
        """R's share of the gates' sums, from the outputs in a buffer."""

        def run(*sums: Any) -> list[Array]:
            for number, total in enumerate(sums):
                kernel = self.memory["kernel"].at[self.tile.gate(number)]
                plgpu.wgmma(total, kernel, self.memory["outputs"].at[now])
            plgpu.wgmma_wait(0)
            return [total[...] for total in sums]

        return pl.run_scoped(run, *[plgpu.WGMMAAccumulatorRef(TILE, jnp.float32)] * 4)

    def stage(self, cell: Array, gates: steps.Four) -> None:
        """Puts down what the backward pass will want of this step."""
        kept = len(self.traced)
        if kept > 1:
            self.memory["staged"][0][self.group] = cell
        if kept > 2:
            for number, value in enumerate(gates):
                self.memory["staged"][1][self.group, number] = value.astype(self.projected.dtype)

    def write(self, step: Any, outputs: Any) -> None:
        """Starts the copies of what this step leaves."""
        tile, kept, here = self.tile, len(self.traced), self.tile.time(step)
        plgpu.copy_smem_to_gmem(outputs, self.traced[0].at[here, tile.units, tile.rows])
        if kept > 1:
            own = self.memory["staged"][0].at[self.group]
            plgpu.copy_smem_to_gmem(own, self.traced[1].at[here, tile.units, tile.rows])
        if kept > 2:
            for number in range(4):
                own = self.memory["staged"][1].at[self.group, number]
                plgpu.copy_smem_to_gmem(own, self.traced[2].at[here, tile.gate(number), tile.rows])


class _Backward(_Kernel):
    """A warpgroup's share of the backward pass."""

    def __init__(
        self, layout: Layout, reverse: bool, references: Sequence[Any], memory: dict[str, Any]
    ) -> None:
        super().__init__(layout, memory)
        self.gates, self.cells, self.output_cotangents, self.kernel = references[:4]
        self.last_cell, self.last_output, limits = references[4:7]
        self.dz, self.first_cell, self.first_output = references[7:]
        self.tile = Tile(layout, self.group, reverse, limits)

    def run(self) -> None:
        """All steps."""
        self.begin(self.kernel)
        cotangents = self.tile.load(self.last_cell), self.tile.load(self.last_output)
        plgpu.barrier_wait(self.memory["kernel_arrived"])
        dc, dh = lax.fori_loop(0, self.layout.time, self.retreat, cotangents)
        self.tile.store(self.first_cell, dc)
        self.tile.store(self.first_output, dh)
        plgpu.wait_smem_to_gmem(0)

    def fetch(self, step: Any) -> None:
        tile, memory = self.tile, self.memory
        slot, here = lax.rem(step, _SLOTS), tile.time(step)
        state = here, tile.units, tile.rows
        copies = [
            (self.cells.at[state], memory["cells"].at[self.group, slot]),
            (self.output_cotangents.at[state], memory["outputs"].at[self.group, slot]),
        ]
        for number in range(4):
            own = memory["gates"].at[self.group, slot, number]
            copies.append((self.gates.at[here, tile.gate(number), tile.rows], own))
        for source, own in copies:
            plgpu.copy_gmem_to_smem(source, own, self.arrived(slot))

    def retreat(self, step: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        """One step."""
        dc, dh = carry
        slot, now = lax.rem(step, _SLOTS), lax.rem(step, 2)
        plgpu.barrier_wait(self.arrived(slot))
        gates = steps.by_gate(lambda number: self.load("gates", slot, number))
        total = dh + self.load("outputs", slot)
        sums, dc = self.tile.retreat(step, gates, self.load("cells", slot), dc, total)
        # What the step before the last left here must have been read.
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        for number, value in enumerate(sums):
            self.memory["dz"][now, self.tile.gate(number)] = value.astype(self.dz.dtype)
        plgpu.commit_smem()
        self.meet()
        self.fetch_after(step)
        self.write(step, now)
        return dc, self.tile.keep(step, self.product(now), dh)

    def load(self, name: str, *place: Any) -> Array:
        """What arrived for this warpgroup, as float32."""
        own = self.memory[name].at[self.group, *place]
        return plgpu.load(own, layout=plgpu.Layout.WGMMA).astype(jnp.float32)

    def write(self, step: Any, now: Any) -> None:
        """Starts the copies of the gates' cotangents."""
        here = self.tile.time(step)
        for number in range(4):
            gate = self.tile.gate(number)
            plgpu.copy_smem_to_gmem(
                self.memory["dz"].at[now, gate],
                self.dz.at[here, gate, self.tile.rows],
                commit_group=False,
            )
        plgpu.commit_smem_to_gmem_group()

    def product(self, now: Any) -> Array:
        """The cotangent of h before the step."""

        def run(total: Any) -> Array:
            kernel = self.memory["kernel"].at[self.tile.units]
            plgpu.wgmma(total, kernel, self.memory["dz"].at[now])
            return total[...]

        return pl.run_scoped(run, plgpu.WGMMAAccumulatorRef(TILE, jnp.float32))
