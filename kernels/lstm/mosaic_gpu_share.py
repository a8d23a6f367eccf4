"""How the recurrence is shared out over a grid of thread blocks, on NVIDIA Hopper.

A block, one warpgroup, owns 16 units with all four gates, for up to 64 rows of the batch. What it
does in a step is in `mosaic_gpu_step`; here are its part of R, its product and the arrays' layout.

The matrix unit wants 64 rows. Forward they are the four gates of the 16 units, of R^T: 128 H bytes
of R in a step, and 2 H of h for each row of the batch.

Backward a block needs dh of its units: 16 rows of R, with 4 H products each. It takes them as 64
rows, (gate, unit), of what meets that gate's dz, and as columns dz of the four gates side by side.
Of the 4 x 4 blocks of sums only the diagonal counts. So R has 128 H bytes once more, all of them
read once, and dz has 8 H for each row of the batch. The operations that count for nothing cost
little with 16 rows of the batch, where a product takes as long as shared memory needs to give out
both factors; with 64 rows it takes four times as long as it would without them. The ways without,
64 units and a quarter of the gates a block, or all units and the block's own gates, end in sums
over blocks: a second exchange in each step, of float32.

The sums lie in registers (gate, unit) by row of the batch, each gate in another warp. They pass
through shared memory, 256 bytes a row, to come back one gate after the other, rows by units.

Arrays are `[time, batch, gates]` here. Both factors of a product have what is summed over last.
"""

import copy
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from kernels import shapes
from kernels.hopper import store
from kernels.lstm import steps
from kernels.lstm.mosaic_gpu_tile import tiled

# Of a block; with four gates, the rows of a matrix instruction.
UNITS = 16
ROWS = 4 * UNITS
# What is summed over between two waits: as wide as the widest swizzle.
CHUNK = 64
# The most rows of the batch in a tile: backward, four gates of them are a product's 256 columns.
COLUMNS = 64
# Of a block, with what the barriers take put aside.
SHARED_MEMORY = 232448 - 1024
# Chunks on their way at a time.
_STAGES = 6
# How the threads share `[rows, units]`: two rows a warp.
SPREAD = plgpu.Layout.TILED(
    plgpu.Tiling(((8, UNITS), (2, UNITS), (1,))), warp_dims=(-5,), lane_dims=(-3, -2), vector_dim=-1
)


class Layout:
    """Padded sizes of a call, and the arrays' way to the kernel and back.

    Attributes:
      columns: rows of the batch in a tile, which are a product's columns.
    """

    def __init__(self, time: int, batch: int, hidden: int, columns: int = COLUMNS) -> None:
        self.actual = batch, hidden
        self.time = time
        self.tiles = max(1, -(-batch // columns))
        self.columns = max(16, shapes.round_up(-(-batch // self.tiles), 16))
        self.batch = self.tiles * self.columns
        self.hidden = shapes.round_up(hidden, CHUNK)
        self.parts = self.hidden // UNITS

    def one_step(self) -> "Layout":
        """That of the same call with a single step."""
        one = copy.copy(self)
        one.time = 1
        return one

    def shape(self, gates: int) -> tuple[int, ...]:
        """The shape of a step's array with so many numbers a unit."""
        return self.batch, gates * self.hidden

    def enter(self, array: Array, gates: int) -> Array:
        """`[..., batch, gates * hidden]`, filled with zeros."""
        *leading, batch, _ = array.shape
        array = array.reshape(*leading, batch, gates, -1)
        array = shapes.pad_to(array, (*leading, self.batch, gates, self.hidden))
        return array.reshape(*leading, *self.shape(gates))

    def leave(self, array: Array, gates: int) -> Array:
        """Undoes `enter`."""
        batch, hidden = self.actual
        *leading, _, _ = array.shape
        array = array.reshape(*leading, self.batch, gates, self.hidden)
        return array[..., :batch, :, :hidden].reshape(*leading, batch, gates * hidden)

    def forward_kernel(self, kernel: Array) -> Array:
        """R's share of each block in chunks, each with a row for every gate and unit."""
        return self._by_blocks(self._by_gates(kernel).transpose(2, 1, 0))

    def backward_kernel(self, kernel: Array) -> Array:
        """As `forward_kernel`; a row holds what is multiplied by the gate's dz."""
        return self._by_blocks(self._by_gates(kernel))

    def _by_gates(self, kernel: Array) -> Array:
        _, hidden = self.actual
        kernel = kernel.reshape(hidden, 4, hidden)
        return shapes.pad_to(kernel, (self.hidden, 4, self.hidden))

    def _by_blocks(self, kernel: Array) -> Array:
        """From `[unit, gate, summed over]`."""
        kernel = kernel.reshape(self.parts, UNITS, 4, -1, CHUNK)
        return kernel.transpose(0, 3, 2, 1, 4).reshape(self.parts, -1, CHUNK)

    def sent(self) -> tuple[int, ...]:
        """The shape of a step's dz as products read it: tiles, gates and their rows, units."""
        return self.tiles, 4 * self.columns, self.hidden

    def limits(self, lengths: Array | None) -> Array:
        """The steps that each row takes."""
        batch, _ = self.actual
        limits = jnp.full(batch, self.time) if lengths is None else lengths
        return shapes.pad_to(limits.astype(jnp.int32), (self.batch,))


def load(place: Any) -> Array:
    """A part of memory, `[rows, units]`, in the threads' registers."""
    return plgpu.load(place, layout=SPREAD, optimized=False)


def factor(shape: tuple[int, ...], dtype: Any) -> Any:
    """Shared memory for a product's factor, with what is summed over last."""
    swizzle = CHUNK * jnp.dtype(dtype).itemsize
    transforms = (
        plgpu.TilingTransform((8, CHUNK)),  # type: ignore[abstract]
        plgpu.SwizzleTransform(swizzle),  # type: ignore[abstract]
    )
    return plgpu.SMEM(shape, dtype, transforms=transforms)


class Block:
    """A thread block: its memory, and what orders it among the others.

    This one streams R, and waits for nobody.

    Attributes:
      part: which units it owns.
      tile: which rows of the batch.
    """

    def __init__(self, layout: Layout, kernel: Any, memory: dict[str, Any]) -> None:
        self.part, self.tile = lax.axis_index("part"), lax.axis_index("tile")
        self.layout, self.memory = layout, memory
        self.kernel = kernel.at[self.part]

    @classmethod
    def scratch(cls, layout: Layout, dtype: Any) -> dict[str, Any]:
        """The memory that a block has throughout."""
        del dtype
        return {"sums": tiled((ROWS, layout.columns), jnp.float32)}

    @classmethod
    def room(cls, layout: Layout) -> int:
        """Bytes that are left of the shared memory."""
        return SHARED_MEMORY - ROWS * layout.columns * 4

    def meet(self, step: Any) -> None:
        """Waits until everyone has told what it computed in the step before."""

    def tell(self, step: Any) -> None:
        """Lets the others see what this block stored in a step."""

    def streamed(self) -> Sequence[Any]:
        """The part of R that comes, in chunks, with a product's other factor."""
        return (self.kernel,)

    def chunk(self, number: Any, streamed: Sequence[Any]) -> Any:
        """A chunk of R."""
        del number
        return streamed[0]

    def sums(self, source: Any) -> steps.Four:
        """R times what `source` holds, `[columns, summed over]`, by gate."""
        columns = self.layout.columns
        total = self.product(source)
        if total.shape[1] > columns:
            total = _diagonal(total)
        own = self.memory["sums"]
        store(own, total)
        plgpu.commit_smem()
        return steps.by_gate(lambda number: load(own.at[pl.ds(number * UNITS, UNITS)].T))

    def product(self, source: Any) -> Array:
        """R times what `source` holds, as the matrix unit leaves it."""
        columns, size = source.shape
        streamed = self.streamed()

        def spec(rows: int, place: Any) -> Any:
            transforms = factor((rows, CHUNK), source.dtype).transforms
            return plgpu.BlockSpec((rows, CHUNK), place, transforms=transforms, delay_release=1)

        specs = [spec(columns, lambda i: (0, i)), *(spec(ROWS, lambda i: (i, 0)) for _ in streamed)]
        stage = CHUNK * source.dtype.itemsize * (columns + ROWS * len(streamed))

        def run(total: Any) -> Array:
            def add(indices: Any, other: Any, *kernel: Any) -> None:
                plgpu.wgmma(total, self.chunk(indices[0], kernel), other.T)
                plgpu.wgmma_wait(1)

            plgpu.emit_pipeline(
                add,
                grid=(size // CHUNK,),
                in_specs=specs,
                max_concurrent_steps=min(_STAGES, self.room(self.layout) // stage),
            )(source, *streamed)
            return total[...]

        return pl.run_scoped(run, plgpu.WGMMAAccumulatorRef((ROWS, columns), jnp.float32))


def _diagonal(total: Array) -> Array:
    """The block of a gate's rows and the same gate's columns."""
    rows, columns = total.shape
    shape = rows, columns // 4
    gate = plgpu.broadcasted_iota(jnp.int32, shape, 0, layout=plgpu.Layout.WGMMA) // UNITS
    parts = [total[:, n * shape[1] : (n + 1) * shape[1]] for n in range(4)]
    kept = parts[0]
    for number, part in enumerate(parts[1:], 1):
        kept = jnp.where(gate == number, part, kept)
    return kept


def remaining(layout: Layout, kernel: Array, sent: Array, held: Array) -> Array:
    """The cotangent of h before the first step, whose dz nobody has multiplied with R."""
    kernel = kernel.reshape(layout.parts, -1, 4, UNITS, CHUNK)
    sent = sent.reshape(layout.tiles, 4, layout.columns, -1, CHUNK)
    product = jnp.einsum("pcgus,tgrcs->trpu", kernel, sent, preferred_element_type=jnp.float32)
    return product.reshape(held.shape) + held
