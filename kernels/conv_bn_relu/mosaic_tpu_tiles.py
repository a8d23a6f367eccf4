"""How a TPU's convolutions are cut: into tiles that pass through VMEM, and groups of rows in these.

A group is what is multiplied at once; its operand has a row for each position, and in that row what
the kernel's taps see there.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from kernels import shapes
from kernels.conv_bn_relu.types import Geometry

# What is done to the input as it is read.
Apply = Callable[[Any], Any]
# Of a tile of the input and one of the output together.
_TILE_BYTES = 8 * 2**20
# Rows of a group.
_MAXIMUM_GROUP = 512
_LANES = 128


class Rows:
    """Tiles of a 1x1 convolution: rows of `[height * width * batch, channels]`.

    Attributes:
      tiles: how many there are.
      read: rows that are read for a tile.
      written: rows of a tile.
      groups: of a tile.
      group: rows of a group.
      scratch: shapes of what a tile is kept in.
    """

    name = "conv_stats_1x1"

    def __init__(self, geometry: Geometry, dtype: Any) -> None:
        self._rows = geometry.rows
        whole = shapes.round_up(geometry.rows, _sublanes(dtype))
        self.group = min(_MAXIMUM_GROUP // 2, whole)
        most = shapes.round_up(_TILE_BYTES // _row_bytes(geometry, dtype), self.group)
        self._tile = shapes.round_up(pl.cdiv(whole, pl.cdiv(whole, most)), self.group)
        self.read = self.written = self._tile
        self.groups = self._tile // self.group
        self.tiles = pl.cdiv(geometry.rows, self._tile)
        self.scratch: list[tuple[int, ...]] = []

    def shape(self, channels: int) -> tuple[int, ...]:
        """The shape of the whole array."""
        return self._rows, channels

    def block(self, channels: int) -> pl.BlockSpec:
        """A tile of it."""
        return pl.BlockSpec((self._tile, channels), lambda tile: (tile, 0))

    def inputs(self, channels: int) -> list[pl.BlockSpec]:
        """The parts of the input that a tile reads."""
        return [self.block(channels)]

    def count(self, tile: Any) -> Any:
        """Rows of a tile that are in the array."""
        return jnp.minimum(self._rows - tile * self._tile, self._tile)

    def inside(self, tile: Any, group: Any) -> Any:
        """Which rows of a group these are, `[group, 1]`."""
        numbers = jax.lax.broadcasted_iota(jnp.int32, (self.group, 1), 0)
        return group * self.group + numbers < self.count(tile)

    def operands(
        self, tile: Any, inputs: Sequence[Any], scratch: Sequence[Any], apply: Apply
    ) -> Callable[[Any], Any]:
        """What the kernel multiplies, `[group, inputs]`, as a function of the group."""
        del tile, scratch
        (x,) = inputs
        return lambda group: apply(x[self._own(group)])

    def load(self, block: Any, group: Any, columns: Any) -> Any:
        """A group of a tile, `[group, columns]`."""
        return block[self._own(group), columns]

    def store(self, block: Any, group: Any, columns: Any, values: Any) -> None:
        """Undoes `load`."""
        block[self._own(group), columns] = values

    def _own(self, group: Any) -> Any:
        return pl.ds(pl.multiple_of(group * self.group, self.group), self.group)


class Images:
    """Tiles of a 3x3 convolution: a stripe of some images, `[height, width, batch, channels]`.

    So many images that a position of all of them fills registers: a tap of the kernel then reads
    whole ones. Of the stripes above and below a tile needs the nearest line.

    Attributes are those of `Rows`.
    """

    name = "conv_stats_3x3"

    def __init__(self, geometry: Geometry, dtype: Any) -> None:
        self._geometry = geometry
        self._images = _sublanes(dtype)
        line = geometry.width * self._images
        most = _TILE_BYTES // (line * _row_bytes(geometry, dtype))
        self._lines = _divisor(geometry.height, most)
        self._stripes = geometry.height // self._lines
        self._batches = pl.cdiv(geometry.batch, self._images)
        self.tiles = self._stripes * self._batches
        self.written = self._lines * line
        self.read = self.written + (2 * line if self._stripes > 1 else 0)
        # A group is some lines, or a part of one.
        self._once = _divisor(self._lines, _MAXIMUM_GROUP // line)
        self._across = _divisor(geometry.width, _MAXIMUM_GROUP // self._images)
        self._parts = geometry.width // self._across
        self.group = self._once * self._across * self._images
        self.groups = self._lines // self._once * self._parts
        self.scratch = [(self._lines + 2, geometry.width + 2, self._images, geometry.inputs)]

    def shape(self, channels: int) -> tuple[int, ...]:
        """The shape of the whole array."""
        return *self._geometry.space, self._geometry.batch, channels

    def block(self, channels: int) -> pl.BlockSpec:
        """A tile of it."""
        return self._block(self._lines, channels, lambda stripe: stripe)

    def inputs(self, channels: int) -> list[pl.BlockSpec]:
        """The parts of the input that a tile reads: itself, and any lines above and below."""
        if self._stripes == 1:
            return [self.block(channels)]
        last = self._geometry.height - 1
        return [
            self.block(channels),
            self._block(1, channels, lambda stripe: jnp.maximum(stripe * self._lines - 1, 0)),
            self._block(1, channels, lambda stripe: jnp.minimum((stripe + 1) * self._lines, last)),
        ]

    def _block(self, lines: int, channels: int, index: Callable[[Any], Any]) -> pl.BlockSpec:
        def indices(tile: Any) -> tuple[Any, ...]:
            return index(self._stripe(tile)), 0, jax.lax.rem(tile, self._batches), 0

        return pl.BlockSpec((lines, self._geometry.width, self._images, channels), indices)

    def count(self, tile: Any) -> Any:
        """Rows of a tile that are in the array."""
        images = jnp.minimum(self._left(tile), self._images)
        return images * self._lines * self._geometry.width

    def inside(self, tile: Any, group: Any) -> Any:
        """Which rows of a group these are, `[group, 1]`."""
        del group
        numbers = jax.lax.broadcasted_iota(jnp.int32, (self.group, 1), 0)
        return jax.lax.rem(numbers, self._images) < self._left(tile)

    def _left(self, tile: Any) -> Any:
        """Images from a tile's first one on."""
        return self._geometry.batch - jax.lax.rem(tile, self._batches) * self._images

    def _stripe(self, tile: Any) -> Any:
        # Of Python's division a TPU's compiler asks which TPU it is for.
        return jax.lax.div(tile, self._batches)

    def operands(
        self, tile: Any, inputs: Sequence[Any], scratch: Sequence[Any], apply: Apply
    ) -> Callable[[Any], Any]:
        """What the kernel multiplies, `[group, 9 inputs]`, as a function of the group."""
        x, *neighbors = inputs
        (padded,) = scratch
        width, stripe = self._geometry.width, self._stripe(tile)
        left, inner, right = 0, slice(1, width + 1), width + 1

        def keep(line: Any, values: Any) -> None:
            for edge in (left, right):
                padded[line, edge] = jnp.zeros(padded.shape[2:], padded.dtype)
            padded[line, inner] = values

        above = below = jnp.zeros(x.shape[1:], x.dtype)
        if neighbors:
            above, below = (apply(lines[0]) for lines in neighbors)
            above = jnp.where(stripe > 0, above, 0)
            below = jnp.where(stripe < self._stripes - 1, below, 0)
        keep(0, above)
        keep(self._lines + 1, below)
        jax.lax.fori_loop(0, self._lines, lambda line, _: keep(line + 1, apply(x[line])), None)

        def windows(group: Any) -> Any:
            taps = [padded[self._own(group, down, across)] for down, across in np.ndindex(3, 3)]
            return jnp.concatenate([tap.reshape(self.group, -1) for tap in taps], axis=1)

        return windows

    def load(self, block: Any, group: Any, columns: Any) -> Any:
        """A group of a tile, `[group, columns]`."""
        values = block[*self._own(group), :, columns]
        return values.reshape(self.group, values.shape[-1])

    def store(self, block: Any, group: Any, columns: Any, values: Any) -> None:
        """Undoes `load`."""
        sizes = (self._once, self._across, self._images, values.shape[-1])
        block[*self._own(group), :, columns] = values.reshape(sizes)

    def _own(self, group: Any, down: int = 0, across: int = 0) -> tuple[Any, Any]:
        """The lines and columns of a group, or of what is down and across from it."""
        line = jax.lax.div(group, self._parts) * self._once
        column = jax.lax.rem(group, self._parts) * self._across
        return pl.ds(line + down, self._once), pl.ds(column + across, self._across)


def _sublanes(dtype: Any) -> int:
    """Rows of a register."""
    return 8 * 4 // jnp.dtype(dtype).itemsize


def _row_bytes(geometry: Geometry, dtype: Any) -> int:
    """Bytes of a row of the input and of one of the output."""
    channels = (shapes.round_up(size, _LANES) for size in (geometry.inputs, geometry.outputs))
    return sum(channels) * jnp.dtype(dtype).itemsize


def _divisor(size: int, most: int) -> int:
    """The largest one that is not above a number, or 1."""
    return max((number for number in range(1, most + 1) if size % number == 0), default=1)
