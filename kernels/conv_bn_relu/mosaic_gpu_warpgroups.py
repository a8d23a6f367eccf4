"""What the warpgroups of `mosaic_gpu_product` do: one loads, two multiply."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from kernels.conv_bn_relu.mosaic_gpu_plan import CHANNELS, DEPTH, PART, Plan
from kernels.hopper import store

# Of rows on their way through registers: every lane has 16 bytes of a row.
_ROWS_LAYOUT = plgpu.Layout.SMEM_GMEM_COPY((PART, DEPTH), jnp.bfloat16, 2 * DEPTH)


class _Part:
    """What all warpgroups know: the block's tiles, and where a step's operands are."""

    def __init__(self, plan: Plan, memory: dict[str, Any]) -> None:
        self.plan, self.memory = plan, memory
        self.block = lax.axis_index("block")
        # Tiles of this block.
        self.turns = pl.cdiv(plan.tiles - self.block, plan.blocks)

    def tile(self, turn: Any) -> tuple[Any, Any]:
        """The row and column, in tiles, of the block's tile."""
        tile = self.block + turn * self.plan.blocks
        return tile // self.plan.column_tiles, lax.rem(tile, self.plan.column_tiles)

    def kernel(self, name: str, step: Any) -> Any:
        """A buffer or barrier of a step, which is counted over all tiles of the block."""
        return self.memory[name].at[lax.rem(step, self.plan.kernel_slots)]

    def rows(self, name: str, chunk: Any) -> Any:
        """A buffer or barrier of a chunk, which is counted likewise."""
        return self.memory[name].at[lax.rem(chunk, self.plan.row_slots)]


class Loader(_Part):
    """The warpgroup that loads."""

    def __init__(self, plan: Plan, memory: dict[str, Any], given: dict[str, Any]) -> None:
        super().__init__(plan, memory)
        self.given = given

    def run(self) -> None:
        """All steps of all tiles."""
        plan = self.plan
        steps = self.turns * plan.steps

        @pl.loop(0, steps)
        def _(step: Any) -> None:
            @pl.when(lax.rem(step, plan.taps) == 0)
            def _() -> None:
                self.load_rows(step // plan.taps)

            self.load_kernel(step)

        # No barrier is left that somebody may still arrive at.
        @pl.loop(jnp.maximum(steps - plan.kernel_slots, 0), steps)
        def _(step: Any) -> None:
            plgpu.barrier_wait(self.kernel("kernel_free", step))

        chunks = self.turns * plan.chunks

        @pl.loop(jnp.maximum(chunks - plan.row_slots, 0), chunks)
        def _(chunk: Any) -> None:
            plgpu.barrier_wait(self.rows("rows_free", chunk))

    def load_kernel(self, step: Any) -> None:
        """Starts the copy of a step's share of the kernel, when there is room."""
        plan = self.plan

        @pl.when(step >= plan.kernel_slots)
        def _() -> None:
            plgpu.barrier_wait(self.kernel("kernel_free", step))

        _, column = self.tile(step // plan.steps)
        outputs = pl.ds(column * plan.parts * CHANNELS, plan.parts * CHANNELS)
        own = lax.rem(step, plan.steps)
        # In memory all chunks of a tap come first.
        inputs = _chunk(lax.rem(own, plan.taps) * plan.chunks + own // plan.taps)
        plgpu.copy_gmem_to_smem(
            self.given["kernel"].at[outputs, inputs],
            self.kernel("kernel", step),
            self.kernel("kernel_arrived", step),
        )

    def load_rows(self, chunk: Any) -> None:
        """Starts the copies of a chunk of a tile's rows, when there is room."""
        plan = self.plan

        @pl.when(chunk >= plan.row_slots)
        def _() -> None:
            plgpu.barrier_wait(self.rows("rows_free", chunk))

        row, _ = self.tile(chunk // plan.chunks)
        inputs = _chunk(lax.rem(chunk, plan.chunks))
        if plan.pending:
            vectors = self.given["affine"].at[:, inputs]
            arrived = self.rows("rows_arrived", chunk)
            plgpu.copy_gmem_to_smem(vectors, self.rows("affine", chunk), arrived)
        last = plan.row_tiles - plan.end_tiles
        at_end = (row < plan.end_tiles) | (row >= last)

        @pl.when(~at_end)
        def _() -> None:
            self.copy_rows(chunk, self.given["x"], row * plan.tile_rows - plan.margin, inputs)

        if plan.image:

            @pl.when(at_end)
            def _() -> None:
                end = jnp.where(row < plan.end_tiles, 0, 1)
                first = (row - end * last) * plan.tile_rows
                self.copy_rows(chunk, self.given["ends"].at[end], first, inputs)

    def copy_rows(self, chunk: Any, source: Any, start: Any, inputs: Any) -> None:
        """Starts the copies of what a tile reads of an array."""
        for first, count in self.plan.copies:
            plgpu.copy_gmem_to_smem(
                source.at[pl.ds(start + first, count), inputs],
                self.rows("rows", chunk).at[pl.ds(first, count)],
                self.rows("rows_arrived", chunk),
            )


class Worker(_Part):
    """A warpgroup that multiplies."""

    def __init__(self, plan: Plan, memory: dict[str, Any], *left: Any) -> None:
        super().__init__(plan, memory)
        self.raw, self.sums, self.squares = left
        self.group = lax.axis_index("group")

    def run(self) -> None:
        """All tiles."""

        @pl.loop(0, self.turns)
        def _(turn: Any) -> None:
            tile, column = self.tile(turn)
            # This warpgroup's rows, counted in `positions`.
            row = 2 * tile + self.group
            self.leave(self.products(turn * self.plan.steps, row), row, column)

        plgpu.wait_smem_to_gmem(0)

    def products(self, first: Any, row: Any) -> list[Array]:
        """The transposed products of a tile, `[CHANNELS, positions]` each, from its first step."""
        plan = self.plan
        if plan.prepares:
            self.free_own()

        def run(*totals: Any) -> list[Array]:
            @pl.loop(0, plan.steps)
            def _(own: Any) -> None:
                step, tap = first + own, lax.rem(own, plan.taps)
                chunk = step // plan.taps

                @pl.when(tap == 0)
                def _() -> None:
                    self.receive(chunk)

                rows = self.prepare(chunk, own, tap, row) if plan.prepares else self.given(chunk)
                plgpu.barrier_wait(self.kernel("kernel_arrived", step))
                for part, total in enumerate(totals):
                    kernel = self.kernel("kernel", step).at[_chunk(part)]
                    plgpu.wgmma(total, kernel, rows.transpose((1, 0)))
                # The products of the step before are done, and its operands free.
                plgpu.wgmma_wait(len(totals))

                @pl.when(own > 0)
                def _() -> None:
                    self.give_back(step - 1)

            return [total[...] for total in totals]

        accumulator = plgpu.WGMMAAccumulatorRef((CHANNELS, plan.positions), jnp.float32)
        values = pl.run_scoped(run, *[accumulator] * plan.parts)
        self.give_back(first + plan.steps - 1)
        return values

    def give_back(self, step: Any) -> None:
        """Lets a step's operands be overwritten."""
        plgpu.barrier_arrive(self.kernel("kernel_free", step))

        @pl.when(lax.rem(step, self.plan.taps) == self.plan.taps - 1)
        def _() -> None:
            plgpu.barrier_arrive(self.rows("rows_free", step // self.plan.taps))

    def given(self, chunk: Any) -> Any:
        """This warpgroup's rows of a chunk, as they arrived."""
        return self.rows("rows", chunk).at[
            pl.ds(self.group * self.plan.positions, self.plan.positions)
        ]

    def receive(self, chunk: Any) -> None:
        """Waits for the rows of a chunk; for a 3x3 convolution, normalizes them where they are."""
        plan = self.plan
        plgpu.barrier_wait(self.rows("rows_arrived", chunk))
        if not plan.pending or not plan.image:
            return

        # All rows are for both warpgroups: each does every second part.
        @pl.loop(self.group, pl.cdiv(plan.span, PART), step=2)
        def _(number: Any) -> None:
            part = self.rows("rows", chunk).at[pl.ds(number * PART, PART)]
            values = plgpu.load(part, layout=_ROWS_LAYOUT, optimized=False)
            part[...] = self.normalize(values, chunk)

        plgpu.barrier_arrive(self.memory["met"])
        plgpu.barrier_wait(self.memory["met"])

    def prepare(self, chunk: Any, own: Any, tap: Any, row: Any) -> Any:
        """This warpgroup's rows of a step, as they are multiplied.

        They go to the buffer of the step before the last, whose products are done: that much this
        warp has waited for, and all warps meet before they store.
        """
        plan = self.plan
        buffer = self.memory["own"].at[self.group, lax.rem(own, 2)]
        down, across = tap // 3 - 1, lax.rem(tap, 3) - 1
        for first in range(0, plan.positions, PART):
            start = self.group * plan.positions + first
            if plan.image:
                start += plan.margin + down * plan.image[1] + across
            rows = self.rows("rows", chunk).at[pl.ds(start, PART)]
            values = plgpu.load(rows, layout=_ROWS_LAYOUT, optimized=False)
            if plan.image:
                inside = self.inside(row * plan.positions + first, down, across)
                inside = lax.broadcast_in_dim(inside, values.shape, (0,))
                values = jnp.where(inside, values, jnp.zeros_like(values))
            else:
                values = self.normalize(values, chunk)
            buffer[pl.ds(first, PART)] = values
        plgpu.commit_smem()
        return buffer

    def normalize(self, values: Array, chunk: Any) -> Array:
        """Applies the pending normalization and the activation."""
        vectors = []
        for row in range(3):
            source = self.rows("affine", chunk).at[row]
            vector = plgpu.load(source, layout=_ROWS_LAYOUT.reduce(0), optimized=False)
            vectors.append(lax.broadcast_in_dim(vector, values.shape, (1,)))
        mean, factor, bias = vectors
        wide = (values.astype(jnp.float32) - mean) * factor + bias
        if self.plan.activation == "relu":
            wide = jnp.maximum(wide, 0)
        return wide.astype(values.dtype)

    def inside(self, first: Any, down: Any, across: Any) -> Array:
        """Which of `PART` rows have their tap inside the image."""
        assert self.plan.image is not None
        height, width = self.plan.image
        rows = plgpu.broadcasted_iota(jnp.int32, (PART,), 0, layout=_ROWS_LAYOUT.reduce(1))
        rows += first
        y, x = (
            lax.rem(lax.div(rows, width), height) + down,
            lax.rem(rows, width) + across,
        )
        return (y >= 0) & (y < height) & (x >= 0) & (x < width)

    def leave(self, values: list[Array], row: Any, column: Any) -> None:
        """Rounds the products, and stores them and their moments."""
        plan = self.plan
        own = self.memory["own"].at[self.group]
        self.free_own()
        for part, value in enumerate(values):
            value = value.astype(self.raw.dtype)
            self.leave_moments(value.astype(jnp.float32), row, _chunk(column * plan.parts + part))
            # Four lanes exchange their values, and then store rows rather than columns.
            value = plgpu.layout_cast(value, plgpu.Layout.WGMMA_TRANSPOSED)
            own.at[part].transpose((1, 0))[...] = value
        plgpu.commit_smem()
        rows = pl.ds(row * plan.positions, plan.positions)
        for part in range(plan.parts):
            outputs = _chunk(column * plan.parts + part)
            plgpu.copy_smem_to_gmem(own.at[part], self.raw.at[rows, outputs])

    def leave_moments(self, values: Array, row: Any, outputs: Any) -> None:
        """Stores the sums of channels, and their squares about the means of these rows."""
        plan = self.plan
        left = plan.rows - row * plan.positions
        count: Any = plan.positions
        real = None
        if plan.rows % plan.positions:
            count = jnp.clip(left, 1, plan.positions).astype(jnp.float32)
            layout = plgpu.Layout.WGMMA.reduce(0)
            positions = plgpu.broadcasted_iota(jnp.int32, (plan.positions,), 0, layout=layout)
            real = lax.broadcast_in_dim(positions < left, values.shape, (1,))

        def total(summed: Array) -> Array:
            if real is not None:
                summed = jnp.where(real, summed, jnp.zeros_like(summed))
            return jnp.sum(summed, axis=1)

        sums = total(values)
        centered = values - lax.broadcast_in_dim(sums / count, values.shape, (0,))
        store(self.sums.at[row, outputs], sums)
        store(self.squares.at[row, outputs], total(centered * centered))

    def free_own(self) -> None:
        """Waits until what was stored last has been read from this warpgroup's buffers."""
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _chunk(number: Any) -> Any:
    """64 inputs or outputs."""
    return pl.ds(number * DEPTH, DEPTH)
