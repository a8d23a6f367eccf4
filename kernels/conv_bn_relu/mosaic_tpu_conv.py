"""Convolutions with statistics; none is served yet."""

from typing import Any

from kernels.conv_bn_relu.types import Geometry
from kernels.conv_bn_relu.xla import conv_stats

__all__ = ["conv_refusal", "conv_stats"]


def conv_refusal(geometry: Geometry, dtype: Any) -> str | None:
    """See `Primitives.conv_refusal`."""
    del geometry, dtype
    return "there is no kernel yet"
