"""The passes over stored values as Pallas kernels for TPUs.

The grid is (tiles of rows, tiles of channels); each pass reads and writes each of its arrays once.
A tile may hang over the edge of the arrays: what it reads there is anything, and is kept out of
sums, and what it writes there is dropped.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from kernels import shapes
from kernels.conv_bn_relu.types import Affine, Sums

_LANES = 128
# Rows of the narrowest dtype that fill registers.
_SUBLANES = 16
_MAXIMUM_CHANNELS = 2048
# Of one array in one grid step, in float32. Two buffers of the four of a pass are 32 MiB.
_TILE_BYTES = 4 * 2**20
# What every TPU has to give: three quarters of 64 MiB.
_VMEM_BYTES = 48 * 2**20
# Values of one array that are computed at once: half of the registers.
_VALUES = 32 * 1024


class _Tiling:
    """Tiles of an array `[rows, channels]`, and the groups of rows that a tile is computed by."""

    def __init__(self, rows: int, channels: int) -> None:
        self.shape = rows, channels
        self.channels = min(channels, _MAXIMUM_CHANNELS)
        lanes = shapes.round_up(self.channels, _LANES)
        whole = shapes.round_up(rows, _SUBLANES)
        self.group = min(whole, max(_SUBLANES, _VALUES // lanes))
        most = max(self.group, _TILE_BYTES // (4 * lanes))
        tiles = pl.cdiv(whole, most)
        self.rows = shapes.round_up(pl.cdiv(whole, tiles), self.group)
        self.grid = pl.cdiv(rows, self.rows), pl.cdiv(channels, self.channels)

    @property
    def by_row(self) -> pl.BlockSpec:
        """Blocks of an array `[rows, channels]`."""
        return pl.BlockSpec((self.rows, self.channels), lambda row, channel: (row, channel))

    def by_channel(self, vectors: int) -> pl.BlockSpec:
        """Blocks of an array `[vectors, channels]`."""
        return pl.BlockSpec((vectors, self.channels), lambda row, channel: (0, channel))

    @property
    def by_tile(self) -> pl.BlockSpec:
        """Blocks of an array `[tiles of rows, 3, channels]`."""
        return pl.BlockSpec((None, 3, self.channels), lambda row, channel: (row, 0, channel))

    def for_groups(self, body: Callable[[Any], None]) -> None:
        """Calls the body with each group's rows of a tile."""

        def step(number: Any, _: None) -> None:
            body(pl.ds(pl.multiple_of(number * self.group, self.group), self.group))

        jax.lax.fori_loop(0, self.rows // self.group, step, None)

    def inside(self, tile: Any, rows: Any) -> Any:
        """Which rows of a tile's group are rows of the array, `[group, 1]`."""
        first = tile * self.rows + rows.start
        return first + jax.lax.broadcasted_iota(jnp.int32, (self.group, 1), 0) < self.shape[0]


_PARAMETERS = pltpu.CompilerParams(
    dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=_VMEM_BYTES
)


@shapes.in_32_bits
def normalize(
    raw: Float[Array, "rows channels"],
    affine: Affine,
    residual: Float[Array, "rows channels"] | None,
    *,
    activation: str,
) -> Float[Array, "rows channels"]:
    """See `Primitives.normalize`."""
    tiling = _Tiling(*raw.shape)
    arrays = [raw] if residual is None else [raw, residual]
    vectors = as_rows(*affine)
    return pl.pallas_call(
        functools.partial(_normalize_body, tiling, activation),
        grid=tiling.grid,
        in_specs=[tiling.by_channel(3), *[tiling.by_row] * len(arrays)],
        out_specs=tiling.by_row,
        out_shape=shapes.like(raw.shape, raw.dtype, *arrays, vectors),
        compiler_params=_PARAMETERS,
        name="normalize",
    )(vectors, *arrays)


def _normalize_body(tiling: _Tiling, activation: str, vectors: Any, raw: Any, *rest: Any) -> None:
    *residual, y = rest
    mean, factor, bias = _rows_of(vectors)

    def group(rows: Any) -> None:
        values = (_wide(raw, rows) - mean) * factor + bias
        for array in residual:
            values += _wide(array, rows)
        if activation == "relu":
            values = jnp.maximum(values, 0)
        y[rows, :] = values.astype(y.dtype)

    tiling.for_groups(group)


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
    tiling = _Tiling(*raw.shape)
    arrays = [raw, cotangent] if outputs is None else [raw, cotangent, outputs]
    vectors = as_rows(*affine)
    tiles = (tiling.grid[0], 3, raw.shape[1])
    results = [(tiling.by_tile, shapes.like(tiles, jnp.float32, *arrays, vectors))]
    if outputs is not None:
        results.append((tiling.by_row, shapes.like(raw.shape, cotangent.dtype, *arrays, vectors)))
    sums, *masked = pl.pallas_call(
        functools.partial(_sums_body, tiling, activation, outputs is not None),
        grid=tiling.grid,
        in_specs=[tiling.by_channel(3), *[tiling.by_row] * len(arrays)],
        out_specs=[spec for spec, _ in results],
        out_shape=[shape for _, shape in results],
        compiler_params=_PARAMETERS,
        name="normalize_sums",
    )(vectors, *arrays)
    return Sums(*sums.sum(0)), masked[0] if masked else None


def _sums_body(
    tiling: _Tiling,
    activation: str,
    by_outputs: bool,
    vectors: Any,
    raw: Any,
    cotangent: Any,
    *rest: Any,
) -> None:
    outputs, sums, masked = rest if by_outputs else (None, *rest, None)
    mean, factor, bias = _rows_of(vectors)
    tile = pl.program_id(0)
    sums[...] = jnp.zeros_like(sums)

    def group(rows: Any) -> None:
        inside = tiling.inside(tile, rows)
        centered = jnp.where(inside, _wide(raw, rows) - mean, 0)
        given = jnp.where(inside, _wide(cotangent, rows), 0)
        if outputs is not None:
            given = jnp.where(_wide(outputs, rows) > 0, given, 0)
            masked[rows, :] = given.astype(masked.dtype)
        elif activation == "relu":
            given = jnp.where(centered * factor + bias > 0, given, 0)
        for row, values in enumerate((given, given * centered, centered)):
            sums[row : row + 1, :] += values.sum(0, keepdims=True)

    tiling.for_groups(group)


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
    tiling = _Tiling(*raw.shape)
    arguments = as_rows(*affine, slope, offset), raw, cotangent
    return pl.pallas_call(
        functools.partial(_cotangent_body, tiling, activation),
        grid=tiling.grid,
        in_specs=[tiling.by_channel(5), tiling.by_row, tiling.by_row],
        out_specs=tiling.by_row,
        out_shape=shapes.like(raw.shape, raw.dtype, *arguments),
        compiler_params=_PARAMETERS,
        name="normalize_cotangent",
    )(*arguments)


def _cotangent_body(
    tiling: _Tiling, activation: str, vectors: Any, raw: Any, cotangent: Any, result: Any
) -> None:
    mean, factor, bias, slope, offset = _rows_of(vectors)

    def group(rows: Any) -> None:
        centered = _wide(raw, rows) - mean
        given = _wide(cotangent, rows)
        if activation == "relu":
            given = jnp.where(centered * factor + bias > 0, given, 0)
        result[rows, :] = (factor * given + slope * centered + offset).astype(result.dtype)

    tiling.for_groups(group)


def as_rows(*vectors: Float[Array, " channels"]) -> Float[Array, "vectors channels"]:
    """The vectors as the rows of an array."""
    # Under vmap `jnp.stack` would put the mapped axis where the blocks of a TPU cannot have one.
    return jnp.concatenate([vector[None] for vector in vectors])


def _rows_of(vectors: Any) -> tuple[Any, ...]:
    return tuple(vectors[row : row + 1, :] for row in range(vectors.shape[0]))


def _wide(array: Any, rows: Any) -> Any:
    return array[rows, :].astype(jnp.float32)
