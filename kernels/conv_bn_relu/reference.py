"""What is right: the block as its equations say, in float32, differentiated by JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.conv_bn_relu.types import Geometry, Statistics


def conv_bn_relu(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    scale: Float[Array, " outputs"],
    bias: Float[Array, " outputs"],
    residual: Float[Array, "batch new_height new_width outputs"] | None,
    geometry: Geometry,
    *,
    activation: str,
    epsilon: float,
    axis_name: str | None,
) -> tuple[Float[Array, "batch new_height new_width outputs"], Statistics]:
    """The block, with statistics in two passes.

    Computed in the dtype of x and the kernel, or in float32 where that is narrower.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    raw = jax.lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        geometry.strides,
        geometry.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )

    def average(values: Array) -> Array:
        local = values.mean((0, 1, 2))
        return local if axis_name is None else jax.lax.pmean(local, axis_name)

    mean = average(raw)
    variance = average(jnp.square(raw - mean))
    y = (raw - mean) / jnp.sqrt(variance + epsilon) * scale.astype(dtype) + bias.astype(dtype)
    if residual is not None:
        y += residual.astype(dtype)
    if activation == "relu":
        y = jax.nn.relu(y)
    return y.astype(x.dtype), Statistics(mean, variance)
