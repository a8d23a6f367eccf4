"""The primitives in jnp, for XLA to fuse: serves every device, dtype and shape."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.conv_bn_relu.types import Affine, Geometry, Moments, Sums

POSITIONS = (0, 1, 2)


def conv_refusal(geometry: Geometry, dtype: Any) -> str | None:
    """See `Primitives.conv_refusal`."""
    del geometry, dtype
    return None


def conv_stats(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    pending: Affine | None,
    geometry: Geometry,
    *,
    activation: str,
) -> tuple[Float[Array, "batch new_height new_width outputs"], Moments]:
    """See `Primitives.conv_stats`; the moments are taken in two passes.

    The second also corrects the first's rounding, so that constants have no variance (Chan, Golub
    and LeVeque, 1983, equation 1.7).
    """
    if pending is not None:
        x = apply(x, pending, None, activation)
    raw = convolve(x, kernel, geometry)
    # XLA may leave out a rounding that is undone at once; the statistics are of what is stored.
    stored = jnp.finfo(raw.dtype)
    wide = jax.lax.reduce_precision(raw.astype(jnp.float32), stored.nexp, stored.nmant)
    mean = wide.mean(POSITIONS)
    deviations = wide - mean
    missed = deviations.mean(POSITIONS)
    squares = jnp.square(deviations).sum(POSITIONS)
    count = raw.size // raw.shape[-1]
    return raw, Moments(mean + missed, jnp.maximum(squares - count * jnp.square(missed), 0))


def convolve(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """The convolution alone."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def normalize(
    raw: Float[Array, "rows channels"],
    affine: Affine,
    residual: Float[Array, "rows channels"] | None,
    *,
    activation: str,
) -> Float[Array, "rows channels"]:
    """See `Primitives.normalize`."""
    return apply(raw, affine, residual, activation)


def apply(raw: Array, affine: Affine, residual: Array | None, activation: str) -> Array:
    """activation((raw - mean) factor + bias + residual), for any number of axes."""
    values = (raw.astype(jnp.float32) - affine.mean) * affine.factor + affine.bias
    if residual is not None:
        values += residual.astype(jnp.float32)
    if activation == "relu":
        values = jax.nn.relu(values)
    return values.astype(raw.dtype)


def cotangent_sums(
    raw: Float[Array, "rows channels"],
    affine: Affine,
    outputs: Float[Array, "rows channels"] | None,
    cotangent: Float[Array, "rows channels"],
    *,
    activation: str,
) -> tuple[Sums, Float[Array, "rows channels"] | None]:
    """See `Primitives.cotangent_sums`."""
    if outputs is not None:
        masked = jnp.where(outputs > 0, cotangent, 0)
    else:
        masked = _before_activation(raw, affine, cotangent, activation)
    wide, centered = masked.astype(jnp.float32), raw.astype(jnp.float32) - affine.mean
    sums = Sums(wide.sum(0), (wide * centered).sum(0), centered.sum(0))
    return sums, None if outputs is None else masked


def cotangent(
    raw: Float[Array, "rows channels"],
    affine: Affine,
    cotangent: Float[Array, "rows channels"],
    slope: Float[Array, " channels"],
    offset: Float[Array, " channels"],
    *,
    activation: str,
) -> Float[Array, "rows channels"]:
    """See `Primitives.cotangent`."""
    masked = _before_activation(raw, affine, cotangent, activation).astype(jnp.float32)
    centered = raw.astype(jnp.float32) - affine.mean
    return (affine.factor * masked + slope * centered + offset).astype(raw.dtype)


def _before_activation(raw: Array, affine: Affine, cotangent: Array, activation: str) -> Array:
    if activation == "none":
        return cotangent
    values = (raw.astype(jnp.float32) - affine.mean) * affine.factor + affine.bias
    return jnp.where(values > 0, cotangent, 0)
