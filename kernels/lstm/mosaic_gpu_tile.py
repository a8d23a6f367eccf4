"""What the recurrence's kernels for NVIDIA Hopper share: sizes, tiles, a step's arithmetic.

In a block and in a cluster a warpgroup owns a tile: 64 units by 16 rows of the batch, with all four
gates of those units. The batch is the last axis of their arrays: `[time, gates, batch]`. What the
warpgroups of a grid own is in `mosaic_gpu_share`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from kernels import shapes
from kernels.hopper import store
from kernels.lstm import steps

# Rows of a matrix instruction, and so the units of a warpgroup.
UNITS = 64
# Columns of the batch in a tile: the fewest that a swizzled tile can have. Few columns make a step
# short and the blocks many.
COLUMNS = 16
TILE = UNITS, COLUMNS


class Layout:
    """Padded sizes of a call, and the arrays' way to the kernel and back."""

    def __init__(self, time: int, batch: int, hidden: int) -> None:
        self.actual = time, batch, hidden
        self.time = time
        self.batch = shapes.round_up(batch, COLUMNS)
        self.hidden = shapes.round_up(hidden, UNITS)
        self.parts = self.hidden // UNITS

    def shape(self, gates: int) -> tuple[int, ...]:
        """The shape of a step's array with so many numbers a unit."""
        return gates * self.hidden, self.batch

    def enter(self, array: Array, gates: int) -> Array:
        """`[..., batch, gates * hidden]` to `[..., gates * hidden, batch]`, filled with zeros."""
        *leading, batch, _ = array.shape
        array = array.reshape(*leading, batch, gates, -1)
        array = shapes.pad_to(array, (*leading, self.batch, gates, self.hidden))
        return array.reshape(*leading, self.batch, -1).swapaxes(-1, -2)

    def leave(self, array: Array, gates: int) -> Array:
        """Undoes `enter`."""
        _, batch, hidden = self.actual
        *leading, _, _ = array.shape
        array = array.swapaxes(-1, -2).reshape(*leading, self.batch, gates, self.hidden)
        return array[..., :batch, :, :hidden].reshape(*leading, batch, gates * hidden)

    def forward_kernel(self, kernel: Array) -> Array:
        """R^T, `[gates, hidden]`, filled with zeros."""
        return self.backward_kernel(kernel).T

    def backward_kernel(self, kernel: Array) -> Array:
        """R, `[hidden, gates]`, filled with zeros."""
        _, _, hidden = self.actual
        array = shapes.pad_to(kernel.reshape(hidden, 4, hidden), (self.hidden, 4, self.hidden))
        return array.reshape(self.hidden, -1)

    def limits(self, lengths: Array | None) -> Array:
        """The steps that each row takes: none for rows that only fill a tile."""
        time, batch, _ = self.actual
        limits = jnp.full(batch, time, jnp.int32) if lengths is None else lengths.astype(jnp.int32)
        return shapes.pad_to(limits, (self.batch,))


def launch(
    layout: Layout,
    run: Callable[..., None],
    results: Any,
    scratch: Any,
    name: str,
    **partition: Any,
) -> Any:
    """The kernel: over all tiles of the batch, whose units `partition` shares out."""

    def body(*references: Any, **memory: Any) -> None:
        run(references, memory)

    body.__name__ = name
    return plgpu.kernel(
        body,
        out_type=results,
        scratch_types=scratch,
        grid=(layout.batch // COLUMNS,),
        grid_names=("tile",),
        **partition,
    )


def tiled(shape: tuple[int, ...], dtype: Any) -> Any:
    """Shared memory in the tiles that the matrix unit and the copies read without conflicts."""
    # Both operands of a product have the same swizzle: that of a row of the batch's columns.
    swizzle = COLUMNS * jnp.dtype(dtype).itemsize
    transforms = (
        plgpu.TilingTransform((8, COLUMNS)),  # type: ignore[abstract]
        plgpu.SwizzleTransform(swizzle),  # type: ignore[abstract]
    )
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def load(place: Any) -> Array:
    """A part of global memory, as the matrix unit has it in registers."""
    return plgpu.load(place, layout=plgpu.Layout.WGMMA, optimized=False)


class Place:
    """What is computed in a step of the units and rows that a kernel owns, wherever they lie.

    Attributes:
      limit: the steps that each row of the batch takes.
    """

    limit: Any

    def __init__(self, time: int, reverse: bool) -> None:
        self._time, self._reverse = time, reverse

    def time(self, step: Any) -> Any:
        """The place in time of the step that is taken as number `step`."""
        return self._time - 1 - step if self._reverse else step

    def advance(
        self, step: Any, sums: Sequence[Array], cell: Array, output: Array
    ) -> tuple[steps.Four, Array, Array]:
        """The gates from their sums, and c and h after the step."""
        gates = steps.activate(steps.by_gate(sums.__getitem__))
        after, output_after = steps.advance(gates, cell)
        takes_part = self._takes_part(step)
        after = jnp.where(takes_part, after, cell)
        return gates, after, jnp.where(takes_part, output_after.astype(output.dtype), output)

    def retreat(
        self, step: Any, gates: steps.Four, before: Array, dc: Array, dh: Array
    ) -> tuple[list[Array], Array]:
        """The cotangents of the gates' sums and of c before the step; `dh` is of h after it."""
        sums, dc_before = steps.retreat(gates, before, dc, dh)
        takes_part = self._takes_part(step)
        kept = [jnp.where(takes_part, value, jnp.zeros_like(value)) for value in sums]
        return kept, jnp.where(takes_part, dc_before, dc)

    def keep(self, step: Any, value: Array, otherwise: Array) -> Array:
        """The value in rows that take part in the step, and `otherwise` in the others."""
        return jnp.where(self._takes_part(step), value, otherwise)

    def _takes_part(self, step: Any) -> Array:
        """Which rows do, in the shape of the values."""
        raise NotImplementedError


class Tile(Place):
    """Where a tile lies in the arrays, and what its warpgroup computes in a step.

    Attributes:
      units: of the state.
      rows: of the batch, the arrays' last axis.
    """

    def __init__(self, layout: Layout, part: Any, reverse: bool, limits: Any) -> None:
        super().__init__(layout.time, reverse)
        self.units = pl.ds(part * UNITS, UNITS)
        self.rows = pl.ds(lax.axis_index("tile") * COLUMNS, COLUMNS)
        self.limit = plgpu.load(
            limits.at[self.rows], layout=plgpu.Layout.WGMMA.reduce(0), optimized=False
        )
        self._layout, self._part = layout, part

    def gate(self, number: int) -> Any:
        """The tile's rows of a gate, in an array that holds all gates of all units."""
        return pl.ds(number * self._layout.hidden + self._part * UNITS, UNITS)

    def load(self, state: Any) -> Array:
        """The tile of a state, `[units, batch]`, from global memory."""
        return load(state.at[self.units, self.rows])

    def store(self, state: Any, value: Array) -> None:
        """Undoes `load`."""
        store(state.at[self.units, self.rows], value)

    def _takes_part(self, step: Any) -> Array:
        return lax.broadcast_in_dim(self.time(step) < self.limit, TILE, (1,))
