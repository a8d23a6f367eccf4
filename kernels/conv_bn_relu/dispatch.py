"""Which implementation serves a call's convolution, and which its normalisation."""

import dataclasses
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp

from kernels import dispatch
from kernels.conv_bn_relu import mosaic_gpu, mosaic_tpu, xla
from kernels.conv_bn_relu.types import Geometry

_PRIMITIVES = {"xla": xla, "mosaic_gpu": mosaic_gpu, "mosaic_tpu": mosaic_tpu}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """An implementation of a primitive: its name, why it, and its functions."""

    name: str
    reason: str
    primitives: ModuleType


def conv_refusals(geometry: Geometry, dtype: Any) -> dict[str, str | None]:
    """For each implementation why its convolution cannot serve on any device, or None."""
    return {
        name: primitives.conv_refusal(geometry, dtype) for name, primitives in _PRIMITIVES.items()
    }


class Table(NamedTuple):
    """Where a call's measurements are: the table's name, and the sizes that tell rows apart."""

    operation: str
    sizes: dict[str, int]


def conv_table(geometry: Geometry, pending: bool) -> Table:
    """Of `conv_stats`."""
    (rows, columns), (down, across) = geometry.size, geometry.strides
    stride = str(down) if down == across else f"{down}x{across}"
    operation = f"conv_stats_{rows}x{columns}_stride{stride}"
    sizes = {"rows": geometry.rows, "inputs": geometry.inputs, "outputs": geometry.outputs}
    return Table(f"{operation}_pending" if pending else operation, sizes)


def normalise_table(rows: int, channels: int, residual: bool) -> Table:
    """Of `normalise`, with its passes back."""
    operation = "normalise_residual" if residual else "normalise"
    return Table(operation, {"rows": rows, "channels": channels})


def choose_conv(implementation: str, geometry: Geometry, dtype: Any, pending: bool) -> Chosen:
    """The implementation of `conv_stats` for a call; see `kernels.dispatch.choose`.

    A convolution that the named one has no kernel for is XLA's.
    """
    refused = conv_refusals(geometry, dtype)
    table = conv_table(geometry, pending)
    if reason := refused.get(implementation):
        # It raises where the device is not the named one's.
        _choose(table, implementation, dict.fromkeys(refused), dtype)
        return Chosen("xla", f"{implementation} has no kernel: {reason}", xla)
    return _choose(table, implementation, refused, dtype)


def choose_normalise(
    implementation: str, rows: int, channels: int, dtype: Any, residual: bool
) -> Chosen:
    """The implementation of `normalise` and its passes back."""
    table = normalise_table(rows, channels, residual)
    return _choose(table, implementation, dict.fromkeys(_PRIMITIVES), dtype)


def _choose(
    table: Table, implementation: str, refused: dict[str, str | None], dtype: Any
) -> Chosen:
    choice = dispatch.choose(
        table.operation, implementation, refused, table.sizes, jnp.dtype(dtype)
    )
    return Chosen(choice.name, choice.reason, _PRIMITIVES[choice.name])
