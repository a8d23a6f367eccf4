"""The recurrence for NVIDIA Hopper over a grid of thread blocks, in one launch: 449 to 1600 units.

It compiles and assembles, but has not run on a GPU yet. What a block computes in a step is that of
`mosaic_gpu_step`; here it takes its share of R into shared memory once, 128 H bytes, and meets the
blocks of the same rows of the batch in every step. The tests interpret it with threads of one block
in the place of blocks, which shows the order of the exchange.

Blocks that wait for each other must all run at once: there are no more than multiprocessors, and
under `vmap` there is one call after the other. Two such kernels at a time, on two streams of a
device, could keep each other from starting; XLA runs its kernels on one.

They exchange h, and dz, through global memory. A count for each tile of the batch, which only
grows, is the barrier: a block adds one when it has stored what a step leaves for the others, and
waits until all have. Adding releases what all threads of the block have stored, and waiting
acquires it. But it is asynchronous copies that read it, which the memory model has in another proxy
than stores: a fence between the two is on either side. No place is written while somebody may still
read it. Forward every step has its own. Backward there are two: who writes the one of step s in
step s + 2 has waited for everyone to tell of step s + 1, and in that step everyone had read it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.experimental import pallas as pl
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from kernels import shapes
from kernels.lstm.mosaic_gpu_share import (
    CHUNK,
    COLUMNS,
    ROWS,
    SHARED_MEMORY,
    UNITS,
    Block,
    Layout,
    factor,
    remaining,
)
from kernels.lstm.mosaic_gpu_step import Backward, Forward, launch

# Of an H100 and an H200; asked of the device where there is one.
_MULTIPROCESSORS = 132


def layout(time: int, batch: int, hidden: int, sent: int) -> Layout | None:
    """That of a call which the grid serves, or None.

    Args:
      time: number of steps.
      batch: number of sequences.
      hidden: number of units.
      sent: arrays of all units that a step leaves for the next one: h, or dz of four gates.
    """
    padded = shapes.round_up(hidden, CHUNK)
    # As many tiles as there is room for: the fewer rows a block has, the shorter is its step.
    tiles = _multiprocessors() // (padded // UNITS)
    if not tiles:
        return None
    columns = shapes.round_up(max(1, -(-batch // tiles)), 16)
    # Each row of the batch takes its sums, and its part of two chunks on their way.
    row = 4 * ROWS + 2 * 2 * CHUNK * sent
    fits = 2 * ROWS * padded + row * columns <= SHARED_MEMORY and columns <= COLUMNS
    return Layout(time, batch, hidden, columns) if fits else None


def _multiprocessors() -> int:
    return getattr(jax.local_devices()[0], "core_count", _MULTIPROCESSORS)


def forward(
    layout: Layout, reverse: bool, results: Sequence[Any], arguments: Sequence[Array]
) -> Sequence[Array]:
    """The kernel's call; see `mosaic_gpu.forward` for what goes in and comes out."""
    call = launch(layout, Resident, Forward, reverse, results, "lstm_forward_grid")
    return sequential_vmap(call)(*arguments)


def backward(
    layout: Layout, reverse: bool, results: Sequence[Any], arguments: Sequence[Array]
) -> Sequence[Array]:
    """The kernel's call; see `mosaic_gpu.backward` for what goes in and comes out."""
    *given, limits = arguments
    sums, state, _ = results
    places = min(layout.time, 2)
    sent = shapes.like((places, *layout.sent()), sums.dtype, *arguments)
    types = sums, sent, state, state
    call = launch(layout, Resident, Backward, reverse, types, "lstm_backward_grid")
    nothing = jnp.zeros(layout.sent(), sums.dtype)
    dz, sent, dc, held = sequential_vmap(call)(*given, nothing, limits)
    last = sent[(layout.time - 1) % places]
    return [dz, dc, remaining(layout, given[3], last, held)]


class Resident(Block):
    """A thread block that keeps its share of R, and meets those of its tile in every step."""

    def __init__(self, layout: Layout, kernel: Any, memory: dict[str, Any]) -> None:
        super().__init__(layout, kernel, memory)
        told = pl.get_global(plgpu.SemaphoreType.REGULAR((layout.tiles,)))
        self.told = told.at[self.tile]
        self.load_kernel()

    def load_kernel(self) -> None:
        """Takes the block's share of R into its shared memory."""
        plgpu.copy_gmem_to_smem(self.kernel, self.memory["kernel"], self.memory["loaded"])
        plgpu.barrier_wait(self.memory["loaded"])

    @classmethod
    def scratch(cls, layout: Layout, dtype: Any) -> dict[str, Any]:
        """The memory that a block has throughout."""
        kernel = {
            "kernel": factor((ROWS * layout.hidden // CHUNK, CHUNK), dtype),
            "loaded": plgpu.Barrier(),
        }
        return super().scratch(layout, dtype) | kernel

    @classmethod
    def room(cls, layout: Layout) -> int:
        """Bytes that are left of the shared memory."""
        return super().room(layout) - 2 * ROWS * layout.hidden

    def streamed(self) -> Sequence[Any]:
        """Nothing of R."""
        return ()

    def chunk(self, number: Any, streamed: Sequence[Any]) -> Any:
        """A chunk of R."""
        del streamed
        return self.memory["kernel"].at[pl.ds(number * ROWS, ROWS)]

    def meet(self, step: Any) -> None:
        """Waits until everyone has told what it computed in the step before."""
        count = step * self.layout.parts
        plgpu.semaphore_wait(self.told, count, decrement=False, memory_scope="gpu")
        _fence()

    def tell(self, step: Any) -> None:
        """Lets the others see what this block stored in a step."""
        del step
        _fence()
        plgpu.semaphore_signal(self.told, memory_scope="gpu")


def _fence() -> None:
    """Orders this thread's stores, and what it has acquired, before asynchronous copies."""

    @plgpu.inline_mgpu()
    def fence(_: Any) -> None:
        utils.inline_ptx("fence.proxy.async.global;", has_side_effects=True)

    fence()
