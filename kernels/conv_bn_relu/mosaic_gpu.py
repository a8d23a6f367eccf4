"""The primitives as Pallas kernels for NVIDIA Hopper GPUs (sm_90a).

Convolutions are in `mosaic_gpu_conv`, what passes over stored values in `mosaic_gpu_normalise`.
"""

from kernels.conv_bn_relu.mosaic_gpu_conv import conv_refusal, conv_stats
from kernels.conv_bn_relu.mosaic_gpu_normalise import cotangent, cotangent_sums, normalise

PLACES = (0, 1, 2)

__all__ = ["PLACES", "conv_refusal", "conv_stats", "cotangent", "cotangent_sums", "normalise"]
