"""The recurrence for NVIDIA Hopper with a launch of the kernel in every step: any number of units.

Nobody holds R: it is streamed from memory, or from the cache where that holds it, in every step,
and the end of a launch is what orders the exchange between the blocks. In the compiled program the
kernel reads and writes the slices of a step where they lie; XLA adds copies of the state, which the
next step must not overwrite.

The kernels are those of `mosaic_gpu_grid`, too: there one launch takes all steps.
"""

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
from kernels.lstm.mosaic_gpu_share import SPREAD, UNITS, Block, Layout, load, remaining
from kernels.lstm.mosaic_gpu_tile import Place


def forward(
    layout: Layout, reverse: bool, results: Sequence[Any], arguments: Sequence[Array]
) -> Sequence[Array]:
    """The kernel's calls; see `mosaic_gpu.forward` for what goes in and comes out."""
    projected, kernel, *state, limits = arguments
    *traced, last_cell, last_output = results
    once = [shapes.like((1, *whole.shape[1:]), whole.dtype, *arguments) for whole in traced]
    types = *once, last_cell, last_output
    call = launch(layout.one_step(), Block, Forward, False, types, "lstm_forward_step")

    def step(state: list[Array], at: tuple[Array, Array]) -> tuple[list[Array], list[Array]]:
        given, left = at
        *traced, cell, output = call(given[None], kernel, *state, left)
        return [cell, output], [array[0] for array in traced]

    by_time = projected, _left(layout, limits)
    last, left_behind = lax.scan(step, state, by_time, reverse=reverse)
    return [*left_behind, *last]


def backward(
    layout: Layout, reverse: bool, results: Sequence[Any], arguments: Sequence[Array]
) -> Sequence[Array]:
    """The kernel's calls; see `mosaic_gpu.backward` for what goes in and comes out."""
    *traced, kernel, last_cell, last_output, limits = arguments
    sums, state, _ = results
    once = shapes.like((1, *sums.shape[1:]), sums.dtype, *arguments)
    left_dz = shapes.like((1, *layout.sent()), sums.dtype, *arguments)
    types = once, left_dz, state, state
    call = launch(layout.one_step(), Block, Backward, False, types, "lstm_backward_step")

    def step(carry: tuple[Array, ...], at: tuple[Any, Array]) -> tuple[Any, Array]:
        read, left = at
        dc, held, sent = carry
        dz, sent, dc, held = call(*(array[None] for array in read), kernel, dc, held, sent, left)
        return (dc, held, sent[0]), dz[0]

    nothing = jnp.zeros(layout.sent(), sums.dtype)
    by_time = traced, _left(layout, limits)
    carry, dz = lax.scan(step, (last_cell, last_output, nothing), by_time, reverse=reverse)
    dc, held, sent = carry
    return [dz, dc, remaining(layout, kernel, sent, held)]


def _left(layout: Layout, limits: Array) -> Array:
    """The steps that each row takes from each step on."""
    return limits - jnp.arange(layout.time, dtype=jnp.int32)[:, None]


class Kernel(Place):
    """What both directions share: a block's places in the arrays, and the steps' order.

    Attributes:
      KERNEL: R's place among the arguments.
    """

    KERNEL: int

    def __init__(self, layout: Layout, reverse: bool, limits: Any, block: Block) -> None:
        super().__init__(layout.time, reverse)
        self.layout, self.block = layout, block
        self.rows = pl.ds(block.tile * layout.columns, layout.columns)
        self.units = pl.ds(block.part * UNITS, UNITS)
        self.limit = plgpu.load(limits.at[self.rows], layout=SPREAD.reduce(1), optimized=False)

    def gate(self, number: int) -> Any:
        """The block's units of a gate, in an array that holds all gates of all units."""
        return pl.ds(number * self.layout.hidden + self.block.part * UNITS, UNITS)

    def take(self, source: Any, carry: Any) -> Any:
        """All steps; `source` is that of the first one."""

        def following(step: Any, carry: Any) -> Any:
            return self.step(step, self.left(step - 1), carry)

        carry = self.step(jnp.int32(0), source, carry)
        return lax.fori_loop(1, self.layout.time, following, carry)

    def step(self, step: Any, source: Any, carry: Any) -> Any:
        """One step; `source` holds what it reads of the step before, of all units."""
        raise NotImplementedError

    def left(self, step: Any) -> Any:
        """The source of the step after this one."""
        raise NotImplementedError

    def _takes_part(self, step: Any) -> Array:
        shape = self.layout.columns, UNITS
        return lax.broadcast_in_dim(self.time(step) < self.limit, shape, (0,))


class Forward(Kernel):
    """A block's share of the forward pass."""

    KERNEL = 1

    def __init__(
        self, layout: Layout, reverse: bool, references: Sequence[Any], block: Block
    ) -> None:
        self.projected, _, self.first_cell, self.first_output, limits = references[:5]
        *self.traced, self.last_cell, self.last_output = references[5:]
        super().__init__(layout, reverse, limits, block)

    def run(self) -> None:
        """All steps, from the arguments to the results."""
        own = self.rows, self.units
        state = load(self.first_cell.at[own]), load(self.first_output.at[own])
        cell, output = self.take(self.first_output.at[self.rows], state)
        store(self.last_cell.at[own], cell)
        store(self.last_output.at[own], output)

    def left(self, step: Any) -> Any:
        """The source of the step after this one: h."""
        return self.traced[0].at[self.time(step), self.rows]

    def step(self, step: Any, source: Any, carry: Any) -> Any:
        """One step; `carry` is c and h of the block's units."""
        cell, output = carry
        here, rows = self.time(step), self.rows
        given = [load(self.projected.at[here, rows, self.gate(n)]) for n in range(4)]
        self.block.meet(step)
        sums = [
            total + array.astype(jnp.float32)
            for total, array in zip(self.block.sums(source), given, strict=True)
        ]
        gates, after, output_after = self.advance(step, sums, cell, output)
        store(self.traced[0].at[here, rows, self.units], output_after)
        self.block.tell(step)
        for traced in self.traced[1:2]:
            store(traced.at[here, rows, self.units], cell)
        for traced in self.traced[2:]:
            for number, value in enumerate(gates):
                store(traced.at[here, rows, self.gate(number)], value.astype(traced.dtype))
        return after, output_after


class Backward(Kernel):
    """A block's share of the backward pass.

    The cotangent of h before a step is R's product with the step's dz, which only the next step
    takes, and what it was after the step in rows that do not take part: `held`.
    """

    KERNEL = 3

    def __init__(
        self, layout: Layout, reverse: bool, references: Sequence[Any], block: Block
    ) -> None:
        self.gates, self.cells, self.output_cotangents = references[:3]
        self.last_cell, self.held, self.first_sent, limits = references[4:8]
        self.dz, self.sent, self.first_cell, self.last_held = references[8:]
        super().__init__(layout, reverse, limits, block)

    def run(self) -> None:
        """All steps, from the arguments to the results."""
        own = self.rows, self.units
        cotangents = load(self.last_cell.at[own]), load(self.held.at[own])
        dc, held = self.take(self.first_sent.at[self.block.tile], cotangents)
        store(self.first_cell.at[own], dc)
        store(self.last_held.at[own], held)

    def left(self, step: Any) -> Any:
        """The source of the step after this one: dz."""
        return self.sent.at[lax.rem(step, self.sent.shape[0]), self.block.tile]

    def step(self, step: Any, source: Any, carry: Any) -> Any:
        """One step; `carry` is dc and what is held, of the block's units."""
        dc, held = carry
        here, rows, columns = self.time(step), self.rows, self.layout.columns
        gates = [load(self.gates.at[here, rows, self.gate(n)]) for n in range(4)]
        states = [
            load(array.at[here, rows, self.units]) for array in (self.cells, self.output_cotangents)
        ]
        self.block.meet(step)
        i, f, g, o = self.block.sums(source)
        dh = held + ((i + f) + (g + o))
        before, given = (array.astype(jnp.float32) for array in states)
        activated = steps.by_gate(lambda n: gates[n].astype(jnp.float32))
        sums, dc = self.retreat(step, activated, before, dc, dh + given)
        dz = [value.astype(self.dz.dtype) for value in sums]
        for number, value in enumerate(dz):
            store(self.left(step).at[pl.ds(number * columns, columns), self.units], value)
        self.block.tell(step)
        for number, value in enumerate(dz):
            store(self.dz.at[here, rows, self.gate(number)], value)
        return dc, self.keep(step, jnp.zeros_like(dh), dh)


def launch(
    layout: Layout,
    block: type[Block],
    kernel: type[Forward | Backward],
    reverse: bool,
    results: Sequence[Any],
    name: str,
) -> Any:
    """The kernel: what each block of the grid runs."""

    def body(*references: Any, **memory: Any) -> None:
        own = block(layout, references[kernel.KERNEL], memory)
        kernel(layout, reverse, references, own).run()

    body.__name__ = name
    return plgpu.kernel(
        body,
        out_type=results,
        scratch_types=block.scratch(layout, results[0].dtype),
        grid=(layout.parts, layout.tiles),
        grid_names=("part", "tile"),
    )
