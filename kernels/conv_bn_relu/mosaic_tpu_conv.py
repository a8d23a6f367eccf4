"""Convolutions with statistics for TPUs: 1x1, and the 3x3 that keeps height and width.

Both take the positions first and the batch behind them, `[height, width, batch, channels]`: so XLA
lays out the activations of most of its own convolutions on a TPU, and where the two meet nothing
has to be moved. The kernel stays in VMEM; a tile's moments are taken of what was stored of it,
before it leaves the chip.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from kernels import dispatch, shapes
from kernels.conv_bn_relu.moments import merge
from kernels.conv_bn_relu.mosaic_tpu_normalize import as_rows
from kernels.conv_bn_relu.mosaic_tpu_tiles import Images, Rows
from kernels.conv_bn_relu.types import Affine, Geometry, Moments

_LANES = 128
# Columns of the kernel that are multiplied at once: a loop over them keeps the code small.
_COLUMNS = 256


def conv_refusal(geometry: Geometry, dtype: Any) -> str | None:
    """See `Primitives.conv_refusal`."""
    if not (geometry.is_matrix_product or geometry.is_3x3):
        rows, columns = geometry.kernel_size
        return (
            "1x1 convolutions without padding are served, and 3x3 ones of stride 1 with one zero "
            f"on every side, not {rows}x{columns} of strides {geometry.strides} with padding "
            f"{geometry.padding}"
        )
    needed, most = _bytes(geometry, dtype), dispatch.vmem_bytes()
    if needed <= most:
        return None
    return (
        f"the kernel and a tile of {geometry.height}x{geometry.width} images with {geometry.inputs}"
        f" to {geometry.outputs} channels need {needed / 2**20:.0f} MiB of VMEM, and "
        f"{most / 2**20:.0f} are available"
    )


def _bytes(geometry: Geometry, dtype: Any) -> int:
    """Bytes of VMEM: the kernel, two buffers of a tile, scratch, and the values of a group."""
    tiles, size = _tiles(geometry, dtype), jnp.dtype(dtype).itemsize
    inputs, outputs, columns = (
        shapes.round_up(channels, _LANES)
        for channels in (geometry.inputs, geometry.outputs, _columns(geometry.outputs))
    )
    taps = math.prod(geometry.kernel_size)
    tile = tiles.read * inputs + tiles.written * outputs
    kept = sum(math.prod(positions) * inputs for *positions, _ in tiles.scratch)
    # A product in float32 is one of three parts in bfloat16.
    parts = size if size == 2 else size + 3 * 2
    product = taps * inputs * (tiles.group + columns) * parts + tiles.group * columns * 8
    return (taps * inputs * outputs + 2 * tile + kept) * size + product


def _tiles(geometry: Geometry, dtype: Any) -> Rows | Images:
    return Images(geometry, dtype) if geometry.is_3x3 else Rows(geometry, dtype)


def _columns(outputs: int) -> int:
    """Columns that are multiplied at once: all, or a divisor in whole registers."""
    return next((size for size in (_COLUMNS, _LANES) if outputs % size == 0), outputs)


@shapes.in_32_bits
def conv_stats(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    pending: Affine | None,
    geometry: Geometry,
    *,
    activation: str,
) -> tuple[Float[Array, "batch new_height new_width outputs"], Moments]:
    """See `Primitives.conv_stats`."""
    tiles, outputs = _tiles(geometry, x.dtype), geometry.outputs
    down, across = geometry.strides
    x = x[:, ::down, ::across].transpose(1, 2, 0, 3)
    arguments = [x.reshape(tiles.shape(geometry.inputs)), kernel.reshape(-1, outputs)]
    if pending is not None:
        arguments.append(as_rows(*pending))
    seen = tiles.inputs(geometry.inputs)
    raw, moments = pl.pallas_call(
        functools.partial(_body, tiles, activation, len(seen), pending is not None),
        grid=(tiles.tiles,),
        in_specs=[*seen, *map(_resident, arguments[1:])],
        out_specs=[
            tiles.block(outputs),
            pl.BlockSpec((None, 2, outputs), lambda tile: (tile, 0, 0)),
        ],
        out_shape=[
            shapes.like(tiles.shape(outputs), x.dtype, *arguments),
            shapes.like((tiles.tiles, 2, outputs), jnp.float32, *arguments),
        ],
        scratch_shapes=[pltpu.VMEM(sizes, x.dtype) for sizes in tiles.scratch],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), vmem_limit_bytes=dispatch.vmem_bytes()
        ),
        name=tiles.name,
    )(*[arguments[0]] * len(seen), *arguments[1:])
    raw = raw.reshape(*geometry.space, geometry.batch, outputs).transpose(2, 0, 1, 3)
    counts = tiles.count(jnp.arange(tiles.tiles))
    return raw, merge(moments[:, 0], moments[:, 1], counts)


def _resident(array: Array) -> pl.BlockSpec:
    """An operand that is the same for the whole grid: one buffer is enough."""
    return pl.BlockSpec(array.shape, lambda tile: (0, 0), pipeline_mode=pl.Buffered(1))


def _body(
    tiles: Rows | Images, activation: str, seen: int, is_pending: bool, *references: Any
) -> None:
    inputs, (kernel, *rest) = references[:seen], references[seen:]
    vectors, (raw, moments, *scratch) = rest[:is_pending], rest[is_pending:]
    tile, size = pl.program_id(0), _columns(raw.shape[-1])
    count = tiles.count(tile).astype(jnp.float32)

    def apply(values: Any) -> Any:
        return _apply(values, vectors[0], activation) if vectors else values

    operands = tiles.operands(tile, inputs, scratch, apply)

    def add_up(values_of: Callable[[Any], Any]) -> Any:
        def step(group: Any, total: Any) -> Any:
            values = jnp.where(tiles.inside(tile, group), values_of(group), 0)
            return total + values.sum(0, keepdims=True)

        return jax.lax.fori_loop(0, tiles.groups, step, jnp.zeros((1, size), jnp.float32))

    def columns(own: Any) -> None:
        def store(group: Any) -> Any:
            values = _multiply(operands(group), kernel[:, own]).astype(raw.dtype)
            tiles.store(raw, group, own, values)
            return values.astype(jnp.float32)

        def square(group: Any) -> Any:
            return jnp.square(tiles.load(raw, group, own).astype(jnp.float32) - mean)

        total = add_up(store)
        mean = total / count
        moments[0:1, own] = total
        moments[1:2, own] = add_up(square)

    if size == raw.shape[-1]:
        columns(slice(None))
        return

    def step(number: Any, _: None) -> None:
        columns(pl.ds(pl.multiple_of(number * size, size), size))

    jax.lax.fori_loop(0, raw.shape[-1] // size, step, None)


def _apply(values: Any, vectors: Any, activation: str) -> Any:
    """activation((values - mean) factor + bias), rounded as the values are."""
    mean, factor, bias = (vectors[row : row + 1, :] for row in range(3))
    result = (values.astype(jnp.float32) - mean) * factor + bias
    if activation == "relu":
        result = jnp.maximum(result, 0)
    return result.astype(values.dtype)


def _multiply(rows: Array, kernel: Array) -> Array:
    """A matrix product, summed in float32."""
    precision = "highest" if rows.dtype == jnp.float32 else None
    return jnp.matmul(rows, kernel, precision=precision, preferred_element_type=jnp.float32)
