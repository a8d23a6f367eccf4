"""How the products of `mosaic_gpu_product` divide their work and shared memory."""

import dataclasses

from jax.experimental import pallas as pl

from kernels import shapes

# Inputs of a step: 128 bytes, the widest row of a tile in shared memory.
DEPTH = 64
# Rows of a matrix instruction, and so the outputs of an accumulator.
CHANNELS = 64
# Rows that go through registers at once.
PART = 64
# The most rows of a copy.
_COPY = 256
# Thread blocks: the multiprocessors of an H100 or H200.
BLOCKS = 132
# Of an image for a 3x3 convolution: two times what a tile reads is to fit into shared memory.
MAXIMUM_WIDTH = 250
_SHARED_MEMORY = 227 * 1024
# Barriers, and what the alignment of buffers takes.
_RESERVED = 4096
_ROW_BYTES = 2 * DEPTH
_MAXIMUM_SLOTS = 6


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a kernel is made for, and how it divides that.

    Attributes:
      rows: of which moments are taken.
      inputs: a multiple of `DEPTH`.
      outputs: a multiple of `CHANNELS`.
      image: height and width, where the convolution is 3x3.
      pending: a normalization is applied to the rows.
      activation: that follows it: "relu" or "none".
    """

    rows: int
    inputs: int
    outputs: int
    image: tuple[int, int] | None
    pending: bool
    activation: str

    @property
    def all_rows(self) -> int:
        """Rows with those that fill the last tile."""
        return shapes.round_up(self.rows, 128)

    @property
    def positions(self) -> int:
        """Rows of a warpgroup in a tile."""
        return 128 if self.all_rows % 256 == 0 and self._kernel_slots(128) > 1 else 64

    @property
    def tile_rows(self) -> int:
        """Rows of a tile."""
        return 2 * self.positions

    @property
    def row_tiles(self) -> int:
        """Tiles below each other."""
        return self.all_rows // self.tile_rows

    @property
    def parts(self) -> int:
        """Accumulators of a warpgroup: a tile has so many times `CHANNELS` outputs."""
        return 2 if self.outputs % (2 * CHANNELS) == 0 else 1

    @property
    def column_tiles(self) -> int:
        """Tiles beside each other."""
        return self.outputs // (self.parts * CHANNELS)

    @property
    def tiles(self) -> int:
        """Tiles in all."""
        return self.row_tiles * self.column_tiles

    @property
    def blocks(self) -> int:
        """Thread blocks."""
        return min(BLOCKS, self.tiles)

    @property
    def chunks(self) -> int:
        """`DEPTH` inputs each."""
        return self.inputs // DEPTH

    @property
    def taps(self) -> int:
        """Places of the kernel."""
        return 9 if self.image else 1

    @property
    def steps(self) -> int:
        """Products of a tile: all taps of a chunk, then of the next one."""
        return self.chunks * self.taps

    @property
    def margin(self) -> int:
        """The farthest that a tap lies from its position, in rows."""
        return self.image[1] + 1 if self.image else 0

    @property
    def span(self) -> int:
        """Rows that a tile reads."""
        return self.tile_rows + 2 * self.margin

    @property
    def copies(self) -> list[tuple[int, int]]:
        """The first row of each copy of them, and how many it has."""
        return [(first, min(_COPY, self.span - first)) for first in range(0, self.span, _COPY)]

    @property
    def end_tiles(self) -> int:
        """Tiles at either end some of whose taps would lie outside the array."""
        return pl.cdiv(self.margin, self.tile_rows)

    @property
    def prepares(self) -> bool:
        """Whether the rows go through registers."""
        return self.pending or self.image is not None

    @property
    def buffers(self) -> int:
        """Buffers of a warpgroup's own rows by `DEPTH` channels, for operands and then results."""
        return max(self.parts, 2 if self.prepares else 1)

    @property
    def row_slots(self) -> int:
        """Chunks of a tile's rows that shared memory has room for."""
        return self._row_slots(self.positions)

    @property
    def kernel_slots(self) -> int:
        """Steps whose share of the kernel it has room for."""
        return self._kernel_slots(self.positions)

    def _room(self, positions: int) -> int:
        own = 2 * self.buffers * positions * _ROW_BYTES
        return _SHARED_MEMORY - _RESERVED - own

    def _row_bytes(self, positions: int) -> int:
        rows = shapes.round_up(2 * positions + 2 * self.margin, PART)
        return rows * _ROW_BYTES + (3 * 4 * DEPTH if self.pending else 0)

    def _row_slots(self, positions: int) -> int:
        return 2 if self.image else self._kernel_slots(positions)

    def _kernel_slots(self, positions: int) -> int:
        room, bytes_ = self._room(positions), self.parts * CHANNELS * _ROW_BYTES
        if self.image:
            room -= 2 * self._row_bytes(positions)
        else:
            bytes_ += self._row_bytes(positions)
        return min(_MAXIMUM_SLOTS, room // bytes_)
