"""A product of rows and a matrix, or of nine shifts of them, with each column's moments (Hopper).

It is computed transposed: outputs are the rows that the matrix unit wants by 64, and rows its
columns. A channel's values then lie in four lanes of one warp, and its sums need no shared memory.

A thread block is three warpgroups, and there is one block for each multiprocessor; it takes tile
after tile, those of the same rows at about the same time. One warpgroup loads, as far ahead as
there is room. The other two own half of a tile's rows each, `Plan.positions`, and share the kernel.
A step is 64 inputs of a tap: they multiply, and give back what the step before has read. At the end
of a tile each rounds its values, stores them while the next tile begins, and stores their moments:
the sum, and the squares about the mean of this warpgroup's rows, in two steps, without atomics.

Where rows are not multiplied as they are, they arrive as they lie in memory, and a warpgroup takes
its own through registers to where the matrix unit reads them, while that works on the step before.
On this way a 1x1 convolution applies its pending normalization. For a 3x3 convolution a tile's rows
arrive once, with those above and below that its taps need. The two warpgroups normalize them there,
every second part each, and then take them along tap after tap, from the row where a tap begins,
with zeros where it lies outside the image. No copy leaves the array: the first and the last tiles
read a copy of the rows there with zeros around, `ends`.

Main memory sees input and output once. A step of 256 rows and 128 outputs is 4.2 million
operations; it reads 48 KiB from the L2 cache, and in a 3x3 convolution of 56x56 images 21 KiB.
Moments are 8 bytes for each channel and 128 rows, 3 % of the output; with 128 rows in a tile 6 %. A
thread that multiplies has 232 registers, up to 128 of them accumulators. The largest tile takes 210
KiB of shared memory: three steps, of a 3x3 convolution two times its rows and three steps of the
kernel, and what the warpgroups own, rows that are prepared and then results.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from kernels import shapes
from kernels.conv_bn_relu.mosaic_gpu_plan import CHANNELS, DEPTH, PART, Plan
from kernels.conv_bn_relu.mosaic_gpu_warpgroups import Loader, Worker

# The two warpgroups that multiply come first.
_LOADER = 2


def product(
    plan: Plan,
    x: Float[Array, "all_rows inputs"],
    kernel: Float[Array, "outputs taps_inputs"],
    affine: Float[Array, "3 inputs"] | None,
) -> tuple[
    Float[Array, "all_rows outputs"],
    Float[Array, "tiles outputs"],
    Float[Array, "tiles outputs"],
]:
    """The kernel's call.

    Args:
      plan: the sizes.
      x: the rows, bfloat16.
      kernel: transposed, bfloat16: for each output all inputs of the first tap, of the next one.
      affine: mean, factor and bias of the pending normalization, if there is one.

    Returns:
      The products, bfloat16; and for each `plan.positions` rows of them their sums, and their
      squares about their own mean, float32. What lies only in rows that fill up means nothing.
    """
    arguments = {"x": x, "kernel": kernel}
    if affine is not None:
        arguments["affine"] = affine
    if plan.image:
        arguments["ends"] = _ends(plan, x)
    moments = (2 * plan.row_tiles, plan.outputs)
    results = [
        shapes.like((plan.all_rows, plan.outputs), jnp.bfloat16, *arguments.values()),
        shapes.like(moments, jnp.float32, *arguments.values()),
        shapes.like(moments, jnp.float32, *arguments.values()),
    ]

    def body(*references: Any, **memory: Any) -> None:
        given = dict(zip(arguments, references, strict=False))
        group = lax.axis_index("group")

        @pl.when(group == _LOADER)
        def _() -> None:
            plgpu.set_max_registers(40, action="decrease")
            Loader(plan, memory, given).run()

        @pl.when(group != _LOADER)
        def _() -> None:
            plgpu.set_max_registers(232, action="increase")
            Worker(plan, memory, *references[len(arguments) :]).run()

    body.__name__ = "conv_stats_3x3" if plan.image else "conv_stats_1x1"
    call = plgpu.kernel(
        body,
        out_type=results,
        scratch_types=scratch(plan),
        grid=(plan.blocks,),
        grid_names=("block",),
        num_threads=3,
        thread_name="group",
    )
    raw, sums, squares = call(*arguments.values())
    return raw, sums, squares


def _ends(plan: Plan, x: Array) -> Array:
    """The rows that the first and the last tiles read, `[2, rows, inputs]`."""
    rows = plan.end_tiles * plan.tile_rows + plan.margin
    beyond = max(0, rows - plan.all_rows)
    head = jnp.pad(x[:rows], ((plan.margin, beyond), (0, 0)))
    tail = jnp.pad(x[-rows:], ((beyond, plan.margin), (0, 0)))
    return jnp.stack([head, tail])


def scratch(plan: Plan) -> dict[str, Any]:
    """The shared memory and barriers of a thread block."""
    rows = (plan.row_slots, shapes.round_up(plan.span, PART), DEPTH)
    # The tiling is one of columns alone: rows are read from wherever they begin.
    untiled = (plgpu.TilingTransform((DEPTH,)),)  # type: ignore[abstract]
    copies = len(plan.copies) + plan.pending
    memory = {
        "rows": (
            plgpu.SMEM(rows, jnp.bfloat16, transforms=untiled) if plan.prepares else _tiled(*rows)
        ),
        "rows_arrived": plgpu.Barrier(num_arrivals=copies, num_barriers=plan.row_slots),
        "rows_free": plgpu.Barrier(num_arrivals=2, num_barriers=plan.row_slots),
        "kernel": _tiled(plan.kernel_slots, plan.parts * CHANNELS, DEPTH),
        "kernel_arrived": plgpu.Barrier(num_arrivals=1, num_barriers=plan.kernel_slots),
        "kernel_free": plgpu.Barrier(num_arrivals=2, num_barriers=plan.kernel_slots),
        "own": _tiled(2, plan.buffers, plan.positions, DEPTH),
    }
    if plan.pending:
        memory["affine"] = plgpu.SMEM((plan.row_slots, 3, DEPTH), jnp.float32)
    if plan.pending and plan.image:
        memory["met"] = plgpu.Barrier(num_arrivals=2)
    return memory


def _tiled(*shape: int) -> Any:
    """Shared memory in the tiles that the matrix unit reads without conflicts."""
    transforms = (
        plgpu.TilingTransform((8, DEPTH)),  # type: ignore[abstract]
        plgpu.SwizzleTransform(2 * DEPTH),  # type: ignore[abstract]
    )
    return plgpu.SMEM(shape, jnp.bfloat16, transforms=transforms)
