"""Convolution, batch normalization and ReLU as one operation, with Pallas kernels.

`conv_bn_relu` is the training block, `conv_bn_relu_inference` the one with known statistics; they
are built of `conv_stats` and `normalize`. README.md beside this file explains the design.
"""

from kernels.conv_bn_relu.operation import conv_bn_relu, conv_bn_relu_inference, explain
from kernels.conv_bn_relu.primitives import conv_stats, normalize
from kernels.conv_bn_relu.types import Normalization, Statistics

__all__ = [
    "Normalization",
    "Statistics",
    "conv_bn_relu",
    "conv_bn_relu_inference",
    "conv_stats",
    "explain",
    "normalize",
]
