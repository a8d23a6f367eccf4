"""The two primitives of the training block, and their gradients.

A convolution's own transposes are XLA's, whatever computed it. Back through a normalization there
are two passes over what was stored: one adds up, the second one writes; between them the sums cross
the devices.
"""

import dataclasses
import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from kernels import dispatch, shapes
from kernels.conv_bn_relu import dispatch as block_dispatch
from kernels.conv_bn_relu import xla
from kernels.conv_bn_relu.geometry import Padding, Strides, check_normalization, geometry_of
from kernels.conv_bn_relu.types import (
    Geometry,
    Images,
    Kernel,
    Moments,
    Normalization,
    Outputs,
    Statistics,
)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is fixed while a call is traced.

    Attributes:
      conv: whose convolution.
      normalize: whose passes go back through what is pending; None where nothing is.
      geometry: the convolution's sizes.
    """

    conv: ModuleType
    normalize: ModuleType | None
    geometry: Geometry


def conv_stats(
    x: Images,
    kernel: Kernel,
    pending: Normalization | None = None,
    *,
    strides: Strides = 1,
    padding: Padding = "SAME",
    axis_name: str | None = None,
    implementation: str | None = None,
) -> tuple[Outputs, Statistics]:
    """The convolution and the statistics of what is stored of it: the block's first half.

    Args:
      x: float32 or bfloat16; with `pending`, a convolution that is not normalized yet.
      kernel: converted to x's dtype.
      pending: of x, with the statistics that `conv_stats` returned beside it. Normalization and
        activation are then applied as x is read, before zeros are padded; they are computed again
        for the backward pass.
      strides: as for `conv_bn_relu`, like all that follows.
      padding: likewise.
      axis_name: likewise.
      implementation: likewise, but for "reference".

    Returns:
      The convolution, of x's dtype, and its statistics over the whole batch.

    Raises:
      ValueError: as for `conv_bn_relu`.
    """
    geometry = geometry_of(x, kernel, strides, padding)
    if pending is not None:
        check_normalization(pending.activation, pending.vectors, x)
    chosen = dispatch.record(
        block_dispatch.choose_conv(implementation, geometry, x.dtype, pending is not None)
    )
    if pending is not None and chosen.implementation == "xla":
        # XLA has no convolution that normalizes what it reads; what is normalized is kept.
        x, pending = normalize(x, pending, implementation=implementation), None
    before = None
    if pending is not None:
        before = _passes(implementation, x, residual=False)
    plan = _Plan(block_dispatch.PRIMITIVES[chosen.implementation], before, geometry)
    operands = shapes.vary_alike((x, kernel.astype(x.dtype), pending))
    raw, moments = _conv_stats(plan, *operands)
    return raw, _synchronize(moments, geometry.rows, axis_name)


def normalize(
    raw: Images,
    normalization: Normalization,
    residual: Images | None = None,
    *,
    implementation: str | None = None,
) -> Images:
    """activation((raw - mean) scale / sqrt(variance + epsilon) + bias + residual), in one pass.

    The gradient with respect to `raw` goes through the statistics, too, which have to be raw's own;
    their own cotangents are therefore zero.

    Args:
      raw: of `conv_stats`.
      normalization: with the statistics of `conv_stats`.
      residual: of raw's shape and dtype.
      implementation: as for `conv_stats`.

    Raises:
      ValueError: as for `conv_bn_relu`.
    """
    check_normalization(normalization.activation, normalization.vectors, raw, residual)
    passes = _passes(implementation, raw, residual is not None)
    return _normalize(passes, *shapes.vary_alike((raw, normalization, residual)))


def _passes(implementation: str | None, raw: Array, residual: bool) -> ModuleType:
    """Whose passes normalize these values, and go back."""
    channels = raw.shape[-1]
    chosen = block_dispatch.choose_normalize(
        implementation, raw.size // channels, channels, raw.dtype, residual
    )
    return block_dispatch.PRIMITIVES[dispatch.record(chosen).implementation]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalize(
    primitives: ModuleType, raw: Array, normalization: Normalization, residual: Array | None
) -> Array:
    rows = _Rows(primitives, raw.shape)
    values = primitives.normalize(
        rows.of(raw),
        normalization.affine,
        None if residual is None else rows.of(residual),
        activation=normalization.activation,
    )
    return rows.back(values)


def _normalize_forward(
    primitives: ModuleType, raw: Array, normalization: Normalization, residual: Array | None
) -> tuple[Array, Any]:
    y = _normalize(primitives, raw, normalization, residual)
    return y, (raw, normalization, None if residual is None else y, _count(raw, normalization))


def _normalize_backward(primitives: ModuleType, residuals: Any, cotangent: Array) -> Any:
    raw, normalization, y, count = residuals
    return _pull_back(primitives, raw, normalization, y, count, cotangent)


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _count(raw: Array, normalization: Normalization) -> float:
    """The numbers of a channel on all devices; under vmap only a forward pass can tell."""
    axis_name = normalization.axis_name
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return float(raw.size // raw.shape[-1] * devices)


def _pull_back(
    primitives: ModuleType,
    raw: Array,
    normalization: Normalization,
    y: Array | None,
    count: Array | float,
    cotangent: Array,
) -> tuple[Array, Normalization, Array | None]:
    """The cotangents of raw, the normalization and, where y is given, the residual."""
    affine, activation = normalization.affine, normalization.activation
    rows, axis_name = _Rows(primitives, raw.shape), normalization.axis_name
    values, given = rows.of(raw), rows.of(cotangent)
    outputs = None if y is None or activation == "none" else rows.of(y)
    sums, masked = primitives.cotangent_sums(values, affine, outputs, given, activation=activation)
    everywhere = sums
    if axis_name is not None:
        everywhere = jax.lax.psum(sums, axis_name)
    inverse = normalization.deviation_inverse
    # By how much the mean of what is stored differs from the mean as it was rounded.
    error = everywhere.centered / count
    moment = everywhere.products - error * everywhere.cotangents
    slope = -affine.factor * inverse**2 * moment / count
    before = given if masked is None else masked
    raw_cotangent = primitives.cotangent(
        values,
        affine,
        before,
        slope,
        -affine.factor * everywhere.cotangents / count - slope * error,
        activation="none" if masked is not None else activation,
    )
    scale_cotangent = (sums.products - error * sums.cotangents) * inverse
    return (
        rows.back(raw_cotangent),
        dataclasses.replace(
            normalization,
            # No cotangent: an array of zeros would be one, for which `conv_stats` takes a pass.
            mean=None,
            variance=None,
            scale=scale_cotangent.astype(normalization.scale.dtype),
            bias=sums.cotangents.astype(normalization.bias.dtype),
        ),
        None if y is None else rows.back(before),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv_stats(
    plan: _Plan, x: Array, kernel: Array, pending: Normalization | None
) -> tuple[Array, Moments]:
    affine = None if pending is None else pending.affine
    activation = "none" if pending is None else pending.activation
    return plan.conv.conv_stats(x, kernel, affine, plan.geometry, activation=activation)


def _conv_stats_forward(
    plan: _Plan, x: Any, kernel: Any, pending: Any
) -> tuple[tuple[Array, Moments], Any]:
    # With symbolic zeros each argument says, too, whether a gradient is wanted; XLA finds out.
    x, kernel, pending = jax.tree.map(lambda argument: argument.value, (x, kernel, pending))
    raw, moments = _conv_stats(plan, x, kernel, pending)
    count = None if pending is None else _count(x, pending)
    return (raw, moments), (x, kernel, pending, count, raw, moments.mean)


def _conv_stats_backward(plan: _Plan, residuals: Any, cotangents: Any) -> Any:
    x, kernel, pending, count, raw, mean = residuals
    raw_cotangent, moments = cotangents
    if isinstance(raw_cotangent, SymbolicZero):
        raw_cotangent = jnp.zeros_like(raw)
    # The statistics are seldom asked for a gradient of their own: then this pass is not taken.
    if not isinstance(moments.mean, SymbolicZero) or not isinstance(moments.squares, SymbolicZero):
        along_mean, along_squares = (
            jnp.zeros_like(mean) if isinstance(array, SymbolicZero) else array for array in moments
        )
        centered = raw.astype(jnp.float32) - mean
        extra = along_mean / plan.geometry.rows + 2 * centered * along_squares
        raw_cotangent += extra.astype(raw.dtype)
    if plan.normalize is None:
        return *_transposes(plan.geometry, x, kernel, raw_cotangent), None
    activated = _normalize(plan.normalize, x, pending, None)
    x_cotangent, kernel_cotangent = _transposes(plan.geometry, activated, kernel, raw_cotangent)
    x_cotangent, normalization, _ = _pull_back(plan.normalize, x, pending, None, count, x_cotangent)
    return x_cotangent, kernel_cotangent, normalization


_conv_stats.defvjp(_conv_stats_forward, _conv_stats_backward, symbolic_zeros=True)


def _transposes(
    geometry: Geometry, x: Array, kernel: Array, cotangent: Array
) -> tuple[Array, Array]:
    """The cotangents of a convolution's input and of its kernel, by XLA."""
    if dispatch.platform(dispatch.device_kind()) == "cpu":
        # XLA would fuse what made them into the strided reads of the kernel's gradient.
        x, cotangent = jax.lax.optimization_barrier((x, cotangent))
    convolve = functools.partial(xla.convolve, geometry=geometry)
    _, pull_back = jax.vjp(convolve, x, kernel)
    return pull_back(cotangent)


def _synchronize(moments: Moments, rows: int, axis_name: str | None) -> Statistics:
    """The statistics over all devices, from the moments of each."""
    mean, squares = moments
    if axis_name is None:
        return Statistics(mean, squares / rows)
    overall = jax.lax.pmean(mean, axis_name)
    apart = squares + rows * jnp.square(mean - overall)
    return Statistics(overall, jax.lax.pmean(apart, axis_name) / rows)


class _Rows:
    """The positions of images as rows, in the order that an implementation wants them in."""

    def __init__(self, primitives: ModuleType, shape: tuple[int, ...]) -> None:
        self._order = (*primitives.POSITIONS, 3)
        self._shape = shape

    def of(self, images: Array) -> Array:
        """`[batch, height, width, channels]` as `[rows, channels]`."""
        return images.transpose(self._order).reshape(-1, self._shape[-1])

    def back(self, rows: Array) -> Array:
        """Undoes `of`."""
        ordered = rows.reshape([self._shape[axis] for axis in self._order])
        return ordered.transpose(np.argsort(self._order))
