"""The primitives as Pallas kernels for TPUs.

Convolutions are in `mosaic_tpu_conv`, what passes over stored values in `mosaic_tpu_normalize`.
"""

from kernels.conv_bn_relu.mosaic_tpu_conv import conv_refusal, conv_stats
from kernels.conv_bn_relu.mosaic_tpu_normalize import cotangent, cotangent_sums, normalize

# XLA's own convolutions on a TPU mostly have the batch behind the positions.
POSITIONS = (1, 2, 0)

__all__ = ["POSITIONS", "conv_refusal", "conv_stats", "cotangent", "cotangent_sums", "normalize"]
