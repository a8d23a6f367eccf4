"""What a caller says of a convolution, and its sizes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kernels.conv_bn_relu.types import Geometry

Strides = int | tuple[int, int]
Padding = str | Sequence[tuple[int, int]]


def geometry_of(x: Any, kernel: Any, strides: Strides, padding: Padding) -> Geometry:
    """The sizes of a convolution; raises ValueError where they do not fit each other."""
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            "x is [batch, height, width, inputs] and the kernel [rows, columns, inputs, outputs], "
            f"not {x.shape} and {kernel.shape}"
        )
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"x is float32 or bfloat16, not {x.dtype}")
    batch, height, width, inputs = x.shape
    rows, columns, _, outputs = kernel.shape
    down, across = (strides, strides) if isinstance(strides, int) else strides
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding is SAME, VALID or pairs of numbers, not {padding!r}")
        padding = jax.lax.padtype_to_pads((height, width), (rows, columns), (down, across), padding)
    vertical, horizontal = ((int(low), int(high)) for low, high in padding)
    geometry = Geometry(
        batch,
        height,
        width,
        inputs,
        outputs,
        (rows, columns),
        (down, across),
        (vertical, horizontal),
    )
    if min(geometry.space) < 1 or not batch:
        raise ValueError(
            f"a {rows}x{columns} kernel with padding {padding} has no place in {batch} images of "
            f"{height}x{width}"
        )
    return geometry
