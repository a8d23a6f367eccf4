"""Which implementation serves the convolution of a call, and which the normalization."""

from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp

from kernels import dispatch
from kernels.conv_bn_relu import mosaic_gpu, mosaic_tpu, xla
from kernels.conv_bn_relu.types import Geometry

# Who implements the primitives, by name.
PRIMITIVES: dict[str, ModuleType] = {
    "xla": xla,
    "mosaic_gpu": mosaic_gpu,
    "mosaic_tpu": mosaic_tpu,
}


def conv_refusals(geometry: Geometry, dtype: Any) -> dict[str, str | None]:
    """For each implementation why its convolution cannot serve on any device, or None."""
    return {
        name: primitives.conv_refusal(geometry, dtype) for name, primitives in PRIMITIVES.items()
    }


class Table(NamedTuple):
    """Where a call's measurements are: the table's name, and the sizes that tell rows apart."""

    operation: str
    sizes: dict[str, int]


def conv_table(geometry: Geometry, pending: bool) -> Table:
    """Where `conv_stats` was measured."""
    (rows, columns), (down, across) = geometry.kernel_size, geometry.strides
    stride = str(down) if down == across else f"{down}x{across}"
    operation = f"conv_stats_{rows}x{columns}_stride{stride}"
    sizes = {"rows": geometry.rows, "inputs": geometry.inputs, "outputs": geometry.outputs}
    return Table(f"{operation}_pending" if pending else operation, sizes)


def normalize_table(rows: int, channels: int, residual: bool) -> Table:
    """Where `normalize` was measured, its backward passes included."""
    operation = "normalize_residual" if residual else "normalize"
    return Table(operation, {"rows": rows, "channels": channels})


def choose_conv(
    implementation: str | None, geometry: Geometry, dtype: Any, pending: bool
) -> dispatch.Choice:
    """Who serves a call's `conv_stats`; see `kernels.dispatch.choose`.

    A convolution that the named one has no kernel for is XLA's.
    """
    refused = conv_refusals(geometry, dtype)
    table = conv_table(geometry, pending)
    return dispatch.choose(
        table.operation, implementation, refused, table.sizes, jnp.dtype(dtype), substitute="xla"
    )


def choose_normalize(
    implementation: str | None, rows: int, channels: int, dtype: Any, residual: bool
) -> dispatch.Choice:
    """Who serves `normalize` and its backward passes."""
    table = normalize_table(rows, channels, residual)
    return dispatch.choose(
        table.operation,
        implementation,
        dict.fromkeys(PRIMITIVES),
        table.sizes,
        jnp.dtype(dtype),
    )
