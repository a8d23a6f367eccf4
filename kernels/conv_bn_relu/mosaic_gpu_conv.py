"""Convolutions with statistics for NVIDIA Hopper GPUs: 1x1, and the 3x3 that keeps the shape.

Images are taken as rows `[batch * height * width, channels]`, as the passes around them take them.
A 1x1 convolution is then a matrix product, of every second row where it has a stride: XLA takes
those out before. In a 3x3 convolution a tap that lies (down, across) from a position is
`down * width + across` rows away: nine products of shifted rows are added up, and a row whose tap
lies outside its image is zero. One kernel does both: `mosaic_gpu_product`.

It takes whole tiles: 128 rows, and 64 channels on either side. What is less is filled with zeros by
XLA, which copies the array. No convolution of a ResNet-50 at batch 128 or 256 is.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kernels import shapes
from kernels.conv_bn_relu.moments import merge
from kernels.conv_bn_relu.mosaic_gpu_plan import CHANNELS, DEPTH, MAXIMUM_WIDTH, Plan
from kernels.conv_bn_relu.mosaic_gpu_product import product
from kernels.conv_bn_relu.types import Affine, Geometry, Moments


def conv_refusal(geometry: Geometry, dtype: Any) -> str | None:
    """See `Primitives.conv_refusal`."""
    if jnp.dtype(dtype) != jnp.bfloat16:
        return f"the matrix units have no {jnp.dtype(dtype)} product: it takes bfloat16"
    if not geometry.is_matrix_product and not geometry.is_3x3:
        return "it takes 1x1 kernels without padding, and 3x3 kernels that keep height and width"
    if geometry.is_3x3 and geometry.width > MAXIMUM_WIDTH:
        return f"lines of {geometry.width} positions do not fit: {MAXIMUM_WIDTH} are the most"
    return None


@shapes.in_32_bits
def conv_stats(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    pending: Affine | None,
    geometry: Geometry,
    *,
    activation: str,
) -> tuple[Float[Array, "batch new_height new_width outputs"], Moments]:
    """See `Primitives.conv_stats`; for what `conv_refusal` does not refuse."""
    down, across = geometry.strides
    plan = Plan(
        rows=geometry.rows,
        inputs=shapes.round_up(geometry.inputs, DEPTH),
        outputs=shapes.round_up(geometry.outputs, CHANNELS),
        image=geometry.space if geometry.is_3x3 else None,
        pending=pending is not None,
        activation=activation,
    )
    rows = x[:, ::down, ::across].reshape(plan.rows, geometry.inputs)
    affine = None
    if pending is not None:
        affine = shapes.pad_to(jnp.stack(pending), (3, plan.inputs))
    taps = (*geometry.kernel_size, plan.inputs, plan.outputs)
    raw, sums, squares = product(
        plan,
        shapes.pad_to(rows, (plan.all_rows, plan.inputs)),
        shapes.pad_to(kernel, taps).reshape(-1, plan.outputs).T,
        affine,
    )
    first = np.arange(0, plan.rows, plan.positions)
    counts = np.minimum(plan.rows - first, plan.positions)
    tiles = slice(len(first)), slice(geometry.outputs)
    moments = merge(sums[tiles], squares[tiles], jnp.asarray(counts))
    raw = raw[: plan.rows, : geometry.outputs]
    return raw.reshape(geometry.batch, *geometry.space, geometry.outputs), moments
