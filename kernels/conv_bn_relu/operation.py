"""The public functions: the training block, and the one with known statistics."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kernels import dispatch
from kernels.conv_bn_relu import dispatch as block_dispatch
from kernels.conv_bn_relu import reference, xla
from kernels.conv_bn_relu.geometry import Padding, Strides, check_normalization, geometry_of
from kernels.conv_bn_relu.primitives import conv_stats, normalize
from kernels.conv_bn_relu.types import (
    Geometry,
    Images,
    Kernel,
    Normalization,
    Outputs,
    Statistics,
    Vector,
)


def conv_bn_relu(
    x: Images,
    kernel: Kernel,
    scale: Vector,
    bias: Vector,
    *,
    strides: Strides = 1,
    padding: Padding = "SAME",
    residual: Outputs | None = None,
    activation: str = "relu",
    epsilon: float = 1e-5,
    axis_name: str | None = None,
    implementation: str | None = None,
) -> tuple[Outputs, Statistics]:
    """Convolution, batch normalization by the batch's own statistics, activation.

    Differentiable in all arrays, through the statistics, too. Sums and statistics are float32; the
    convolution is stored in x's dtype, and the statistics are those of what is stored.

    Args:
      x: float32 or bfloat16.
      kernel: converted to x's dtype.
      scale: gamma, float32.
      bias: beta, float32.
      strides: of the convolution, one number or two.
      padding: "SAME", "VALID", or zeros above and below, left and right.
      residual: added in front of the activation, of x's dtype.
      activation: "relu" or "none".
      epsilon: added to the variance.
      axis_name: a mapped axis (of `shard_map`, `pmap`, `vmap`) over which the batch is split: the
        statistics are those of the whole batch.
      implementation: "auto", "reference" (float32, differentiated by JAX), "xla", "mosaic_gpu" or
        "mosaic_tpu"; None for that of `dispatch.using`. `explain` says what "auto" picks and why.
        Convolutions for which the named one has no kernel are XLA's.

    Returns:
      y, and the statistics, from which a caller keeps running averages.

    Raises:
      ValueError: the shapes or dtypes do not fit each other, or the named implementation does not
        serve this device; the message says why.
    """
    geometry = geometry_of(x, kernel, strides, padding)
    _check(geometry, x, {"scale": scale, "bias": bias}, residual, activation)
    if dispatch.requested(implementation) == "reference":
        dispatch.record(dispatch.Choice("conv_bn_relu", "reference", "named"))
        options: dict[str, Any] = {"epsilon": epsilon, "axis_name": axis_name}
        operands = x, kernel, scale, bias, residual
        return reference.conv_bn_relu(*operands, geometry, activation=activation, **options)
    raw, statistics = conv_stats(
        x,
        kernel,
        strides=strides,
        padding=padding,
        axis_name=axis_name,
        implementation=implementation,
    )
    normalization = Normalization(*statistics, scale, bias, activation, epsilon, axis_name)
    return normalize(raw, normalization, residual, implementation=implementation), statistics


def conv_bn_relu_inference(
    x: Images,
    kernel: Kernel,
    scale: Vector,
    bias: Vector,
    mean: Vector,
    variance: Vector,
    *,
    strides: Strides = 1,
    padding: Padding = "SAME",
    residual: Outputs | None = None,
    activation: str = "relu",
    epsilon: float = 1e-5,
) -> Outputs:
    """The block with statistics that are known: they are folded into the kernel.

    What is left is a convolution with a bias, which XLA serves: there is no pass to save. In
    bfloat16 the folded kernel and the convolution are rounded, the latter as in the training block.

    Arguments and errors are those of `conv_bn_relu`; `mean` and `variance` are the running ones.
    """
    geometry = geometry_of(x, kernel, strides, padding)
    vectors = {"scale": scale, "bias": bias, "mean": mean, "variance": variance}
    _check(geometry, x, vectors, residual, activation)
    reason = "of a block with known statistics only a convolution is left"
    dispatch.record(dispatch.Choice("conv_bn_relu_inference", "xla", reason))
    factor = scale.astype(jnp.float32) * jax.lax.rsqrt(variance + epsilon)
    folded = (kernel.astype(jnp.float32) * factor).astype(x.dtype)
    y = xla.convolve(x, folded, geometry).astype(jnp.float32) + (bias - mean * factor)
    if residual is not None:
        y += residual.astype(jnp.float32)
    return (jax.nn.relu(y) if activation == "relu" else y).astype(x.dtype)


def explain(
    x_shape: tuple[int, int, int, int],
    kernel_shape: tuple[int, int, int, int],
    dtype: Any,
    *,
    strides: Strides = 1,
    padding: Padding = "SAME",
    residual: bool = False,
    pending: bool = False,
) -> dict[str, dict[str, str]]:
    """For both halves of such a block, whether each implementation serves it here, or why not.

    Under "auto": which one is picked, and why.

    Args:
      x_shape: `[batch, height, width, inputs]`.
      kernel_shape: `[rows, columns, inputs, outputs]`.
      dtype: of x.
      strides: of the convolution.
      padding: of the convolution.
      residual: whether one is added.
      pending: whether a normalization is pending on x.

    Returns:
      "conv_stats" and "normalize", each from implementation to the answer.
    """
    shape = jax.ShapeDtypeStruct
    geometry = geometry_of(shape(x_shape, dtype), shape(kernel_shape, dtype), strides, padding)
    conv = block_dispatch.choose_conv("auto", geometry, dtype, pending)
    rest = block_dispatch.choose_normalize("auto", geometry.rows, geometry.outputs, dtype, residual)
    refusals = block_dispatch.conv_refusals(geometry, dtype)
    return {
        "conv_stats": {
            **dispatch.explain(refusals),
            "auto": f"{conv.implementation}: {conv.reason}",
        },
        "normalize": {
            **dispatch.explain(dict.fromkeys(refusals)),
            "auto": f"{rest.implementation}: {rest.reason}",
        },
    }


def _check(
    geometry: Geometry, x: Array, vectors: dict[str, Any], residual: Any, activation: str
) -> None:
    raw = (geometry.batch, *geometry.space, geometry.outputs)
    check_normalization(activation, vectors, jax.ShapeDtypeStruct(raw, x.dtype), residual)
