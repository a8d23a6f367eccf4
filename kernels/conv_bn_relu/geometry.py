"""From the arguments of a call to the sizes of its convolution, with the checks."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kernels.conv_bn_relu.types import ACTIVATIONS, Geometry

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
    if min(batch, inputs, outputs, rows, columns, down, across) < 1:
        raise ValueError(
            f"x {x.shape}, kernel {kernel.shape} and strides {strides}: no number may be below 1"
        )
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
    if min(geometry.space) < 1:
        raise ValueError(
            f"a {rows}x{columns} kernel with padding {padding} has no position in {batch} images "
            f"of {height}x{width}"
        )
    return geometry


def check_normalization(
    activation: str, vectors: Mapping[str, Any], raw: Any, residual: Any = None
) -> None:
    """Raises ValueError where what normalizes does not fit what is normalized.

    Args:
      activation: its name.
      vectors: by name, each with a number for every channel.
      raw: what is normalized, an array or its shape and dtype.
      residual: to be like it, or None.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {' or '.join(ACTIVATIONS)}, not {activation!r}")
    for name, array in vectors.items():
        if array.shape != raw.shape[-1:]:
            raise ValueError(f"{name} has shape {array.shape}, and should have {raw.shape[-1:]}")
    if residual is not None and (residual.shape, residual.dtype) != (raw.shape, raw.dtype):
        raise ValueError(
            f"the residual is {residual.dtype} of shape {residual.shape}, and should be "
            f"{raw.dtype} of shape {raw.shape}"
        )
