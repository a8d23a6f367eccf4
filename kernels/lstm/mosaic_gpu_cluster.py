"""The recurrence for NVIDIA Hopper over a cluster of thread blocks: 129 to 448 units.

It compiles and assembles, but has not run on a GPU yet. The tests interpret it with threads of one
block in the place of blocks, which shows the arithmetic and the order of the exchange.

A cluster takes a tile of the batch through the whole sequence. Each block of it is one warpgroup
and owns 64 units, all four of their gates, and the share of R that these need: what meets its own
units in registers (64 of them a thread), the rest in shared memory. That leaves no room there for
inputs and results: the inputs come to registers, a step ahead, and the results leave from there.

Each step every block sends the others what they wait for, by stores into their shared memory that
count on a barrier there as they land.

Forward, a block has the rows of R^T for its gates and needs all of h. It sends its own, bfloat16,
2 KB to each, into that of two buffers which this step does not read. No other barrier is needed:
who sends h of step s + 2, into the buffer of s, has h of s + 1 from everyone, and whoever sent that
had taken all its products with h of s.

Backward, a block has the columns of R for its gates and needs dh of its units, a sum over all
blocks. It sends each the share for its units, float32, 4 KB. (Sending dz instead, for sums over
rows of R, would be 8 KB to each, and each would hold all of dz.) There is room for one buffer: the
barrier "read" says that everyone has added up what it holds.

A block's shared memory ends with the block. Nothing comes too late for it: each block waits for all
that is ever sent to it, and for every arrival at its barriers.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from kernels.hopper import store
from kernels.lstm import steps
from kernels.lstm.mosaic_gpu_tile import (
    COLUMNS,
    TILE,
    UNITS,
    Layout,
    Tile,
    launch,
    load,
    tiled,
)

# A block of seven takes 229376 bytes backward, of the 232448 that it can have.
MAXIMUM_HIDDEN = 448
_AXIS = "part"


def forward(
    layout: Layout, reverse: bool, results: Sequence[Any], arguments: Sequence[Array]
) -> Sequence[Array]:
    """The kernel's call; see `mosaic_gpu.forward` for what goes in and comes out."""
    dtype, others = arguments[0].dtype, layout.parts - 1
    scratch = {
        "kernel": tiled((others, 4, UNITS, UNITS), dtype),
        "outputs": tiled((2, layout.hidden, COLUMNS), dtype),
        # R, and h before the first step.
        "loaded": plgpu.Barrier(num_arrivals=4 * others + 1, num_barriers=1),
        # For each buffer.
        "arrived": plgpu.Barrier(num_arrivals=layout.parts, num_barriers=2),
    }
    run = _launch(layout, reverse, _Forward, results, scratch, "lstm_forward_cluster")
    return run(*arguments)


def backward(
    layout: Layout, reverse: bool, results: Sequence[Any], arguments: Sequence[Array]
) -> Sequence[Array]:
    """The kernel's call; see `mosaic_gpu.backward` for what goes in and comes out."""
    dtype, others = arguments[0].dtype, layout.parts - 1
    scratch = {
        "kernel": tiled((others, 4, UNITS, UNITS), dtype),
        "dz": tiled((4, *TILE), dtype),
        "shares": tiled((others, *TILE), jnp.float32),
        "loaded": plgpu.Barrier(num_arrivals=4 * others, num_barriers=1),
        "arrived": plgpu.Barrier(num_arrivals=others, num_barriers=1),
        "read": plgpu.ClusterBarrier(collective_axes=(_AXIS,), num_barriers=1),
    }
    run = _launch(layout, reverse, _Backward, results, scratch, "lstm_backward_cluster")
    return run(*arguments)


class Block:
    """A thread block: its shared memory, and its way into the others'."""

    def __init__(self, memory: dict[str, Any]) -> None:
        self.part = lax.axis_index(_AXIS)
        self._memory = memory

    def own(self, name: str) -> Any:
        """A buffer of this block."""
        return self._memory[name]

    def barrier(self, name: str, slot: Any = 0) -> Any:
        """A barrier of this block."""
        return self._memory[name].at[slot]

    def hold(self, number: int, square: Any) -> Any:
        """Takes a square of R from global memory into registers, for all steps."""
        del number
        return load(square)

    def send(self, value: Array, part: Any, name: str, place: Any, slot: Any) -> None:
        """Stores into a block's buffer; its barrier "arrived" counts when all has landed."""
        plgpu.async_store_smem(
            value,
            self._memory[name].at[place],
            self._memory["arrived"].at[slot],
            cluster_idx=part,
            cluster_dim=_AXIS,
        )

    def receive(self, barrier: Any) -> None:
        """Waits for what was sent or copied, shows it to the matrix unit, and meets all warps."""
        plgpu.barrier_wait(barrier)
        plgpu.commit_smem()


def _launch(
    layout: Layout, reverse: bool, kernel: Any, results: Any, scratch: Any, name: str
) -> Any:
    def run(references: Sequence[Any], memory: dict[str, Any]) -> None:
        kernel(layout, reverse, references, Block(memory)).run()

    cluster = {"cluster": (layout.parts,), "cluster_names": (_AXIS,)}
    return launch(layout, run, results, scratch, name, **cluster)


class _Kernel:
    """What both directions share: a block's place and its share of R."""

    def __init__(self, layout: Layout, reverse: bool, limits: Any, block: Block) -> None:
        self.layout, self.block = layout, block
        self.others = layout.parts - 1
        self.tile = Tile(layout, block.part, reverse, limits)

    def begin(self) -> None:
        """Starts the copies of R, and loads what stays in registers."""

        @pl.loop(0, self.others)
        def _(place: Any) -> None:
            for number in range(4):
                plgpu.copy_gmem_to_smem(
                    self.source(number, self.other(place)),
                    self.block.own("kernel").at[place, number],
                    self.block.barrier("loaded"),
                )

        own = [self.source(number, self.block.part) for number in range(4)]
        self.held = [self.block.hold(number, square) for number, square in enumerate(own)]

    def source(self, number: int, part: Any) -> Any:
        """Where a square of R lies in global memory: an own gate, and a block's units."""
        raise NotImplementedError

    def other(self, place: Any) -> Any:
        """The block whose place it is among all but this one."""
        return place + jnp.where(place >= self.block.part, 1, 0)


def _units(part: Any) -> Any:
    return pl.ds(part * UNITS, UNITS)


class _Forward(_Kernel):
    """A block's share of the forward pass."""

    def __init__(
        self, layout: Layout, reverse: bool, references: Sequence[Any], block: Block
    ) -> None:
        self.projected, self.kernel, self.first_cell, self.first_output, limits = references[:5]
        *self.traced, self.last_cell, self.last_output = references[5:]
        super().__init__(layout, reverse, limits, block)

    def run(self) -> None:
        """All steps."""
        tile, loaded = self.tile, self.block.barrier("loaded")
        self.begin()
        # Everyone's h before the first step: nobody has to send it.
        plgpu.copy_gmem_to_smem(
            self.first_output.at[:, tile.rows], self.block.own("outputs").at[0], loaded
        )
        state = tile.load(self.first_cell), tile.load(self.first_output)
        inputs = self.fetch(0)
        self.block.receive(loaded)
        cell, output, _ = lax.fori_loop(0, self.layout.time, self.advance, (*state, inputs))
        tile.store(self.last_cell, cell)
        tile.store(self.last_output, output)

    def source(self, number: int, part: Any) -> Any:
        return self.kernel.at[self.tile.gate(number), _units(part)]

    def fetch(self, step: Any) -> list[Array]:
        """What a step reads; it is not waited for until it is used."""
        here, tile = self.tile.time(step), self.tile
        return [load(self.projected.at[here, tile.gate(n), tile.rows]) for n in range(4)]

    def advance(self, step: Any, carry: Any) -> Any:
        """One step."""
        cell, output, inputs = carry
        following = self.fetch(jnp.minimum(step + 1, self.layout.time - 1))
        now = lax.rem(step, 2)
        sums = self.products(now)
        for number, given in enumerate(inputs):
            sums[number] += given.astype(jnp.float32)
        gates, after, output_after = self.tile.advance(step, sums, cell, output)

        # Nobody waits for the last step's.
        @pl.when(step + 1 < self.layout.time)
        def _() -> None:
            @pl.loop(0, self.layout.parts)
            def _(part: Any) -> None:
                self.block.send(output_after, part, "outputs", (1 - now, self.tile.units), 1 - now)

        self.write(step, output_after, cell, gates)

        @pl.when(step + 1 < self.layout.time)
        def _() -> None:
            self.block.receive(self.block.barrier("arrived", 1 - now))

        return after, output_after, following

    def products(self, now: Any) -> list[Array]:
        """R's share of the gates' sums, from the outputs in a buffer."""
        outputs = self.block.own("outputs")

        def run(*sums: Any) -> list[Array]:
            for held, total in zip(self.held, sums, strict=True):
                plgpu.wgmma(total, held, outputs.at[now, self.tile.units])

            @pl.loop(0, self.others)
            def _(place: Any) -> None:
                units = _units(self.other(place))
                for number, total in enumerate(sums):
                    kernel = self.block.own("kernel").at[place, number]
                    plgpu.wgmma(total, kernel, outputs.at[now, units])

            plgpu.wgmma_wait(0)
            return [total[...] for total in sums]

        return pl.run_scoped(run, *[plgpu.WGMMAAccumulatorRef(TILE, jnp.float32)] * 4)

    def write(self, step: Any, output: Array, cell: Array, gates: steps.Four) -> None:
        """Stores what this step leaves, while the messages travel."""
        tile, here = self.tile, self.tile.time(step)
        for traced, value in zip(self.traced[:2], (output, cell), strict=False):
            store(traced.at[here, tile.units, tile.rows], value)
        for traced in self.traced[2:]:
            for number, value in enumerate(gates):
                place = traced.at[here, tile.gate(number), tile.rows]
                store(place, value.astype(traced.dtype))


class _Backward(_Kernel):
    """A block's share of the backward pass."""

    def __init__(
        self, layout: Layout, reverse: bool, references: Sequence[Any], block: Block
    ) -> None:
        self.gates, self.cells, self.output_cotangents, self.kernel = references[:4]
        self.last_cell, self.last_output, limits = references[4:7]
        self.dz, self.first_cell, self.first_output = references[7:]
        super().__init__(layout, reverse, limits, block)

    def run(self) -> None:
        """All steps."""
        tile = self.tile
        self.begin()
        cotangents = tile.load(self.last_cell), tile.load(self.last_output)
        read = self.fetch(0)
        self.block.receive(self.block.barrier("loaded"))
        dc, dh, _ = lax.fori_loop(0, self.layout.time, self.retreat, (*cotangents, read))
        tile.store(self.first_cell, dc)
        tile.store(self.first_output, dh)

    def source(self, number: int, part: Any) -> Any:
        return self.kernel.at[_units(part), self.tile.gate(number)]

    def fetch(self, step: Any) -> list[Array]:
        """What a step reads; it is not waited for until it is used."""
        here, tile = self.tile.time(step), self.tile
        places = [self.gates.at[here, tile.gate(number), tile.rows] for number in range(4)]
        states = [self.cells, self.output_cotangents]
        places += [state.at[here, tile.units, tile.rows] for state in states]
        return [load(place) for place in places]

    def retreat(self, step: Any, carry: Any) -> Any:
        """One step."""
        dc, dh, read = carry
        following = self.fetch(jnp.minimum(step + 1, self.layout.time - 1))
        *gates, before, given = [array.astype(jnp.float32) for array in read]
        sums, dc = self.tile.retreat(step, tuple(gates), before, dc, dh + given)
        dz = [value.astype(self.dz.dtype) for value in sums]
        # One buffer will do: all four warps had taken the last step's products when they received.
        for number, value in enumerate(dz):
            self.block.own("dz")[number] = value
        plgpu.commit_smem()

        @pl.when(step > 0)
        def _() -> None:
            plgpu.barrier_wait(self.block.barrier("read"))

        @pl.loop(0, self.others)
        def _(place: Any) -> None:
            part, mine = self.other(place), self.block.part
            kernel = self.block.own("kernel")
            share = self.product([kernel.at[place, number] for number in range(4)])
            # This block's place among all but the receiver.
            self.block.send(share, part, "shares", mine - jnp.where(mine > part, 1, 0), 0)

        here, tile = self.tile.time(step), self.tile
        for number, value in enumerate(dz):
            store(self.dz.at[here, tile.gate(number), tile.rows], value)
        return dc, tile.keep(step, self.total(step), dh), following

    def product(self, kernel: Sequence[Any]) -> Array:
        """The share of this block's gates in the cotangent of a block's h."""

        def run(total: Any) -> Array:
            for number, gate in enumerate(kernel):
                plgpu.wgmma(total, gate, self.block.own("dz").at[number])
            return total[...]

        return pl.run_scoped(run, plgpu.WGMMAAccumulatorRef(TILE, jnp.float32))

    def total(self, step: Any) -> Array:
        """The cotangent of this block's h before the step; always summed in the same order."""
        total = self.product(self.held)
        self.block.receive(self.block.barrier("arrived"))
        for place in range(self.others):
            share = self.block.own("shares").at[place]
            total += plgpu.load(share, layout=plgpu.Layout.WGMMA)

        # Nobody sends after the last step, and nobody may still be there to be told.
        @pl.when(step + 1 < self.layout.time)
        def _() -> None:
            # All four warps have read when one thread says so.
            plgpu.commit_smem()
            plgpu.barrier_arrive(self.block.barrier("read"))

        return total
