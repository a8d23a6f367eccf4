"""Which implementation serves a call's convolution, and which its normalisation."""

import dataclasses
from types import ModuleType
from typing import Any

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


def choose_conv(implementation: str, geometry: Geometry, dtype: Any, pending: bool) -> Chosen:
    """The implementation of `conv_stats` for a call; see `kernels.dispatch.choose`.

    A convolution that the named one has no kernel for is XLA's.
    """
    refused = conv_refusals(geometry, dtype)
    reason = refused.get(implementation)
    if reason:
        # It raises where the device is not the named one's.
        _choose("conv_stats", implementation, dict.fromkeys(_PRIMITIVES), {}, dtype)
        return Chosen("xla", f"{implementation} has no kernel: {reason}", xla)
    rows, columns = geometry.size
    operation = f"conv_stats_{rows}x{columns}_stride{geometry.strides[0]}"
    sizes = {"rows": geometry.rows, "inputs": geometry.inputs, "outputs": geometry.outputs}
    return _choose(
        f"{operation}_pending" if pending else operation, implementation, refused, sizes, dtype
    )


def choose_normalise(
    implementation: str, rows: int, channels: int, dtype: Any, residual: bool
) -> Chosen:
    """The implementation of `normalise` and its passes back."""
    operation = "normalise_residual" if residual else "normalise"
    sizes = {"rows": rows, "channels": channels}
    return _choose(operation, implementation, dict.fromkeys(_PRIMITIVES), sizes, dtype)


def _choose(
    operation: str,
    implementation: str,
    refused: dict[str, str | None],
    sizes: dict[str, int],
    dtype: Any,
) -> Chosen:
    choice = dispatch.choose(operation, implementation, refused, sizes, jnp.dtype(dtype))
    return Chosen(choice.name, choice.reason, _PRIMITIVES[choice.name])
