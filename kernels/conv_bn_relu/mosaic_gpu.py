"""The primitives as Pallas kernels for NVIDIA Hopper GPUs (sm_90a).

Convolutions are in `mosaic_gpu_conv`, what passes over stored values in `mosaic_gpu_normalize`.
"""

from kernels.conv_bn_relu.mosaic_gpu_conv import conv_refusal, conv_stats
from kernels.conv_bn_relu.mosaic_gpu_normalize import cotangent, cotangent_sums, normalize

POSITIONS = (0, 1, 2)

__all__ = ["POSITIONS", "conv_refusal", "conv_stats", "cotangent", "cotangent_sums", "normalize"]
