"""The passes over stored values for NVIDIA Hopper GPUs (sm_90a): each reads and writes them once.

Bytes for each value in bfloat16 (twice as many in float32):

    normalize                2 read, 2 written; 2 more read with a residual
    normalize_sums           4 read; with outputs 6 read, 2 written
    normalize_cotangent      4 read, 2 written

What limits them is memory alone, if enough of it is under way: 4.8 TB/s at about 800 ns are 29 KB
for each of 132 multiprocessors. Two thread blocks share one. Each walks over its tiles of 8 KB with
96 KB of shared memory, a ring that asynchronous copies fill: from 144 KB (sums with outputs) to 192
KB (sums without) of reads are under way on a multiprocessor, as a slot is filled again as soon as
its tile is in registers. There are 8 to 14 instructions for a value: at full bandwidth at most 53 %
of what a multiprocessor can issue. By these counts nothing but copying is left to wait for; which
share of a copy's bandwidth that gives has not been measured on a GPU yet.

The vectors of each channel stay in registers. So do sums over rows, until a block has all of its
rows: it then writes one row of them, and XLA adds up the blocks'. In a ResNet-50 at batch 128 that
is 0.5 % of the bytes of these passes, at most 6 % of one (7x7 of 512 channels, 13 MB in all).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from kernels import shapes
from kernels.conv_bn_relu.types import Affine, Sums

# A warpgroup holds such pieces in registers: each warp a row, each lane four columns of it.
_PIECE = _ROWS, _COLUMNS = 4, 128
_LAYOUT = plgpu.Layout.TILED(
    plgpu.Tiling(((1, *_PIECE), (4,))), warp_dims=(-3,), lane_dims=(-2,), vector_dim=-1
)
# A copy brings one tile of an array. A block has room for 12, two of which wait to be written.
_TILE_BYTES = 8192
_TILES = 12
_STAGED = 2
# Two for each multiprocessor of an H100 or H200.
_BLOCKS = 264

# From the vectors and a tile of each array, float32 and all of one shape: a tile of each result,
# and what is to be added up over the rows.
_Arithmetic = Callable[[Sequence[Array], Sequence[Array]], tuple[Sequence[Array], Sequence[Array]]]


@shapes.in_32_bits
def normalize(
    raw: Float[Array, "rows channels"],
    affine: Affine,
    residual: Float[Array, "rows channels"] | None,
    *,
    activation: str,
) -> Float[Array, "rows channels"]:
    """See `Primitives.normalize`."""

    def compute(vectors: Sequence[Array], tiles: Sequence[Array]) -> Any:
        raw, *rest = tiles
        values = _normalized(raw, vectors)
        for residual in rest:
            values += residual
        return [jnp.maximum(values, 0) if activation == "relu" else values], []

    arrays = [raw] if residual is None else [raw, residual]
    (values,), _ = _run("normalize", compute, arrays, affine, results=1, sums=0)
    return values


@shapes.in_32_bits
def cotangent_sums(
    raw: Float[Array, "rows channels"],
    affine: Affine,
    outputs: Float[Array, "rows channels"] | None,
    cotangent: Float[Array, "rows channels"],
    *,
    activation: str,
) -> tuple[Sums, Float[Array, "rows channels"] | None]:
    """See `Primitives.cotangent_sums`."""

    def compute(vectors: Sequence[Array], tiles: Sequence[Array]) -> Any:
        raw, before, *rest = tiles
        for outputs in rest:
            before = jnp.where(outputs > 0, before, 0)
        if not rest:
            before = _before_activation(raw, vectors, before, activation)
        centered = raw - vectors[0]
        return [before] * len(rest), [before, before * centered, centered]

    arrays = [raw, cotangent] if outputs is None else [raw, cotangent, outputs]
    results = len(arrays) - 2
    masked, sums = _run("normalize_sums", compute, arrays, affine, results=results, sums=3)
    return Sums(*sums), masked[0] if masked else None


@shapes.in_32_bits
def cotangent(
    raw: Float[Array, "rows channels"],
    affine: Affine,
    cotangent: Float[Array, "rows channels"],
    slope: Float[Array, " channels"],
    offset: Float[Array, " channels"],
    *,
    activation: str,
) -> Float[Array, "rows channels"]:
    """See `Primitives.cotangent`."""

    def compute(vectors: Sequence[Array], tiles: Sequence[Array]) -> Any:
        mean, factor, _, slope, offset = vectors
        raw, before = tiles
        before = _before_activation(raw, vectors, before, activation)
        return [factor * before + slope * (raw - mean) + offset], []

    arrays, vectors = (raw, cotangent), (*affine, slope, offset)
    (values,), _ = _run("normalize_cotangent", compute, arrays, vectors, results=1, sums=0)
    return values


def _normalized(raw: Array, vectors: Sequence[Array]) -> Array:
    mean, factor, bias, *_ = vectors
    return (raw - mean) * factor + bias


def _before_activation(
    raw: Array, vectors: Sequence[Array], cotangent: Array, activation: str
) -> Array:
    if activation == "none":
        return cotangent
    return jnp.where(_normalized(raw, vectors) > 0, cotangent, 0)


def _run(
    name: str,
    compute: _Arithmetic,
    arrays: Sequence[Array],
    vectors: Sequence[Array],
    *,
    results: int,
    sums: int,
) -> tuple[list[Array], list[Array]]:
    """A pass.

    Args:
      name: of the kernel.
      compute: its arithmetic.
      arrays: `[rows, channels]`, all of one dtype.
      vectors: `[channels]`, float32.
      results: how many arrays it writes.
      sums: how many sums over the rows it takes.

    Returns:
      The results, and for each sum `[channels]`, float32.
    """
    cut = _Cut(arrays[0])
    arguments = [*map(cut.enter, arrays), *(jnp.tile(vector, cut.folded) for vector in vectors)]
    out_type = [shapes.like(arguments[0].shape, cut.dtype, *arguments)] * results
    if sums:
        of_blocks = cut.shares, sums, cut.columns
        out_type.append(shapes.like(of_blocks, jnp.float32, *arguments))

    def body(*references: Any, **memory: Any) -> None:
        own = _Share(cut)
        spread = [own.spread(vector) for vector in references[len(arrays) : len(arguments)]]
        outputs = references[len(arguments) :]
        walk = _Walk(own, references[: len(arrays)], outputs[:results], memory)
        for number, total in enumerate(walk.run(compute, spread, sums)):
            outputs[-1][own.share, number, own.columns] = total

    body.__name__ = name
    kernel = plgpu.kernel(
        body,
        out_type=out_type,
        scratch_types=cut.memory(len(arrays), results),
        grid=(cut.shares * cut.strips,),
        grid_names=("block",),
    )
    written = kernel(*arguments)
    left = [cut.leave(array) for array in written[:results]]
    if not sums:
        return left, []
    return left, list(written[-1].reshape(cut.shares, sums, cut.folded, -1).sum((0, 2)))


class _Cut:
    """How the arrays of a call are cut into tiles, and those shared out.

    An array is seen as `[pieces, 4, columns]`. Channels that are not a multiple of 128 are made one
    by several rows side by side: in memory that is the same. A tile is some pieces of 128 columns;
    all tiles of the same columns are a strip, which several blocks share.
    """

    def __init__(self, array: Array) -> None:
        self.actual, self.dtype = array.shape, array.dtype
        rows, channels = self.actual
        self.folded = _COLUMNS // math.gcd(channels, _COLUMNS)
        self.columns = self.folded * channels
        # At least two pieces are a tile: Mosaic finds no layout for a sum over a single one.
        self.padded = shapes.round_up(rows, 2 * self.folded * _ROWS)
        pieces = self.padded // (self.folded * _ROWS)
        most = _TILE_BYTES // (_ROWS * _COLUMNS * self.dtype.itemsize)
        self.pieces = math.gcd(pieces, most)
        self.tiles = pieces // self.pieces
        self.strips = self.columns // _COLUMNS
        self.steps = pl.cdiv(self.tiles, max(1, _BLOCKS // self.strips))
        self.shares = pl.cdiv(self.tiles, self.steps)

    def enter(self, array: Array) -> Array:
        """`[rows, channels]` as the kernel sees it: a copy only where rows have to be added."""
        _, channels = self.actual
        padded = shapes.pad_to(array, (self.padded, channels))
        return padded.reshape(-1, _ROWS, self.columns)

    def leave(self, array: Array) -> Array:
        """Undoes `enter`."""
        rows, channels = self.actual
        return array.reshape(-1, channels)[:rows]

    def memory(self, inputs: int, outputs: int) -> dict[str, Any]:
        """A block's shared memory."""
        tile = self.pieces, *_PIECE
        slots = (_TILES - _STAGED * outputs) // inputs
        return {
            "read": plgpu.SMEM((inputs, slots, *tile), self.dtype),
            "staged": [plgpu.SMEM((_STAGED, *tile), self.dtype)] * outputs,
            "arrived": plgpu.Barrier(num_arrivals=inputs, num_barriers=slots),
        }


class _Share:
    """What a thread block works on: tiles of a strip that follow each other, one a step."""

    def __init__(self, cut: _Cut) -> None:
        self.cut = cut
        block, strips = lax.axis_index("block"), jnp.int32(cut.strips)
        # Neighbors read neighboring columns of the same rows.
        self.share, strip = lax.div(block, strips), lax.rem(block, strips)
        self.columns = pl.ds(strip * _COLUMNS, _COLUMNS)
        self.first = self.share * cut.steps
        self.steps = jnp.minimum(cut.steps, cut.tiles - self.first)

    def tile(self, array: Any, step: Any) -> Any:
        """The tile of an array in global memory."""
        pieces = self.cut.pieces
        return array.at[pl.ds((self.first + step) * pieces, pieces), :, self.columns]

    def spread(self, vector: Any) -> Array:
        """The strip's part of a vector, in every row of a tile."""
        own = plgpu.load(vector.at[self.columns], layout=_LAYOUT.reduce((0, 1)), optimized=False)
        return lax.broadcast_in_dim(own, (self.cut.pieces, *_PIECE), (2,))

    def actual(self, step: Any, values: Array) -> Array:
        """A tile's values, with zeros in the rows that were added."""
        cut = self.cut
        rows, channels = cut.actual
        if rows == cut.padded:
            return values
        piece, row, column = (
            plgpu.broadcasted_iota(jnp.int32, values.shape, axis, layout=_LAYOUT)
            for axis in range(3)
        )
        row += ((self.first + step) * cut.pieces + piece) * _ROWS
        column += self.columns.start
        whole, rest = divmod(rows * channels, cut.columns)
        return jnp.where((row < whole) | ((row == whole) & (column < rest)), values, 0)


class _Walk:
    """A thread block's way over its tiles."""

    def __init__(
        self, own: _Share, inputs: Sequence[Any], outputs: Sequence[Any], memory: dict[str, Any]
    ) -> None:
        self.own, self.inputs, self.outputs, self.memory = own, inputs, outputs, memory
        self.slots = memory["read"].shape[1]

    def run(self, compute: _Arithmetic, vectors: Sequence[Array], sums: int) -> list[Array]:
        """All steps; for each sum its value in each column comes back."""
        for step in range(self.slots):
            self.fetch(step)

        def advance(step: Any, totals: tuple[Array, ...]) -> tuple[Array, ...]:
            values, addends = compute(vectors, self.load(step))
            self.store(step, values)
            return tuple(
                total + self.own.actual(step, addend).sum(0)
                for total, addend in zip(totals, addends, strict=True)
            )

        zero = plgpu.layout_cast(jnp.zeros(_PIECE, jnp.float32), _LAYOUT.reduce(0))
        totals = lax.fori_loop(0, self.own.steps, advance, (zero,) * sums)
        plgpu.wait_smem_to_gmem(0)
        return [total.sum(0) for total in totals]

    def fetch(self, step: Any) -> None:
        """Starts the copies of what a step reads, if there is such a step."""

        @pl.when(step < self.own.steps)
        def _() -> None:
            slot = lax.rem(step, self.slots)
            for number, array in enumerate(self.inputs):
                plgpu.copy_gmem_to_smem(
                    self.own.tile(array, step),
                    self.memory["read"].at[number, slot],
                    self.memory["arrived"].at[slot],
                )

    def load(self, step: Any) -> list[Array]:
        """What a step reads, in registers; copies into its slot begin."""
        slot = lax.rem(step, self.slots)
        plgpu.barrier_wait(self.memory["arrived"].at[slot])
        tiles = [self.memory["read"].at[number, slot] for number in range(len(self.inputs))]
        loaded = [plgpu.load(tile, layout=_LAYOUT) for tile in tiles]
        # All warps have loaded when a copy overwrites it.
        plgpu.commit_smem()
        self.fetch(step + self.slots)
        return [tile.astype(jnp.float32) for tile in loaded]

    def store(self, step: Any, values: Sequence[Array]) -> None:
        """Starts the copies of what a step leaves."""
        slot = lax.rem(step, _STAGED)
        for array, staged, value in zip(self.outputs, self.memory["staged"], values, strict=True):
            # What left this slot must have been read before it is overwritten.
            plgpu.wait_smem_to_gmem(_STAGED - 1, wait_read_only=True)
            staged[slot] = value.astype(array.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(staged.at[slot], self.own.tile(array, step))
