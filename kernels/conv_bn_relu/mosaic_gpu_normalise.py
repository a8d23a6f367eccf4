"""The passes over stored values, as yet XLA's."""

from kernels.conv_bn_relu.xla import cotangent, cotangent_sums, normalise

__all__ = ["cotangent", "cotangent_sums", "normalise"]
