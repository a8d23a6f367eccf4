"""The two primitives of the training block, and their gradients.

A convolution's own transposes are XLA's, whatever computed it. Back through a normalisation there
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
from kernels.conv_bn_relu.geometry import Padding, Strides, check_normalisation, geometry_of
from kernels.conv_bn_relu.types import (
    Geometry,
    Images,
    Kernel,
    Moments,
    Normalisation,
    Outputs,
    Statistics,
)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is fixed while a call is traced.

    Attributes:
      conv: whose convolution.
      normalise: whose passes go back through what is pending; None where nothing is.
      geometry: the convolution's sizes.
    """

    conv: ModuleType
    normalise: ModuleType | None
    geometry: Geometry


def conv_stats(
    x: Images,
    kernel: Kernel,
    pending: Normalisation | None = None,
    *,
    strides: Strides = 1,
    padding: Padding = "SAME",
    axis_name: str | None = None,
    implementation: str | None = None,
) -> tuple[Outputs, Statistics]:
    """The convolution and the statistics of what is stored of it: the block's first half.

    Args:
      x: float32 or bfloat16; with `pending`, a convolution that is not normalised yet.
      kernel: converted to x's dtype.
      pending: of x, with the statistics that `conv_stats` returned beside it. Normalisation and
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
        check_normalisation(pending.activation, pending.vectors, x)
    chosen = dispatch.record(
        block_dispatch.choose_conv(implementation, geometry, x.dtype, pending is not None)
    )
    if pending is not None and chosen.implementation == "xla":
        # XLA has no convolution that normalises what it reads; what is normalised is kept.
        x, pending = normalise(x, pending, implementation=implementation), None
    before = None
    if pending is not None:
        before = _passes(implementation, x, residual=False)
    plan = _Plan(block_dispatch.PRIMITIVES[chosen.implementation], before, geometry)
    operands = shapes.vary_alike((x, kernel.astype(x.dtype), pending))
    raw, moments = _conv_stats(plan, *operands)
    return raw, _synchronise(moments, geometry.rows, axis_name)


def normalise(
    raw: Images,
    normalisation: Normalisation,
    residual: Images | None = None,
    *,
    implementation: str | None = None,
) -> Images:
    """activation((raw - mean) scale / sqrt(variance + epsilon) + bias + residual), in one pass.

    The gradient with respect to `raw` goes through the statistics, too, which have to be raw's own;
    their own cotangents are therefore zero.

    Args:
      raw: of `conv_stats`.
      normalisation: with the statistics of `conv_stats`.
      residual: of raw's shape and dtype.
      implementation: as for `conv_stats`.

    Raises:
      ValueError: as for `conv_bn_relu`.
    """
    check_normalisation(normalisation.activation, normalisation.vectors, raw, residual)
    passes = _passes(implementation, raw, residual is not None)
    return _normalise(passes, *shapes.vary_alike((raw, normalisation, residual)))


def _passes(implementation: str | None, raw: Array, residual: bool) -> ModuleType:
    """Whose passes normalise these values, and go back."""
    channels = raw.shape[-1]
    chosen = block_dispatch.choose_normalise(
        implementation, raw.size // channels, channels, raw.dtype, residual
    )
    return block_dispatch.PRIMITIVES[dispatch.record(chosen).implementation]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalise(
    primitives: ModuleType, raw: Array, normalisation: Normalisation, residual: Array | None
) -> Array:
    rows = _Rows(primitives, raw.shape)
    values = primitives.normalise(
        rows.of(raw),
        normalisation.affine,
        None if residual is None else rows.of(residual),
        activation=normalisation.activation,
    )
    return rows.back(values)


def _normalise_forward(
    primitives: ModuleType, raw: Array, normalisation: Normalisation, residual: Array | None
) -> tuple[Array, Any]:
    y = _normalise(primitives, raw, normalisation, residual)
    return y, (raw, normalisation, None if residual is None else y, _count(raw, normalisation))


def _normalise_backward(primitives: ModuleType, residuals: Any, cotangent: Array) -> Any:
    raw, normalisation, y, count = residuals
    return _pull_back(primitives, raw, normalisation, y, count, cotangent)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _count(raw: Array, normalisation: Normalisation) -> float:
    """The numbers of a channel on all devices; under vmap only a forward pass can tell."""
    axis_name = normalisation.axis_name
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return float(raw.size // raw.shape[-1] * devices)


def _pull_back(
    primitives: ModuleType,
    raw: Array,
    normalisation: Normalisation,
    y: Array | None,
    count: Array | float,
    cotangent: Array,
) -> tuple[Array, Normalisation, Array | None]:
    """The cotangents of raw, the normalisation and, where y is given, the residual."""
    affine, activation = normalisation.affine, normalisation.activation
    rows, axis_name = _Rows(primitives, raw.shape), normalisation.axis_name
    values, given = rows.of(raw), rows.of(cotangent)
    outputs = None if y is None or activation == "none" else rows.of(y)
    sums, masked = primitives.cotangent_sums(values, affine, outputs, given, activation=activation)
    everywhere = sums
    if axis_name is not None:
        everywhere = jax.lax.psum(sums, axis_name)
    inverse = normalisation.deviation_inverse
    # By how much the mean of what is stored differs from the mean as it was rounded.
    error = everywhere.centred / count
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
            normalisation,
            # No cotangent: an array of zeros would be one, for which `conv_stats` takes a pass.
            mean=None,
            variance=None,
            scale=scale_cotangent.astype(normalisation.scale.dtype),
            bias=sums.cotangents.astype(normalisation.bias.dtype),
        ),
        None if y is None else rows.back(before),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv_stats(
    plan: _Plan, x: Array, kernel: Array, pending: Normalisation | None
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
        centred = raw.astype(jnp.float32) - mean
        extra = along_mean / plan.geometry.rows + 2 * centred * along_squares
        raw_cotangent += extra.astype(raw.dtype)
    if plan.normalise is None:
        return *_transposes(plan.geometry, x, kernel, raw_cotangent), None
    activated = _normalise(plan.normalise, x, pending, None)
    x_cotangent, kernel_cotangent = _transposes(plan.geometry, activated, kernel, raw_cotangent)
    x_cotangent, normalisation, _ = _pull_back(plan.normalise, x, pending, None, count, x_cotangent)
    return x_cotangent, kernel_cotangent, normalisation


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


def _synchronise(moments: Moments, rows: int, axis_name: str | None) -> Statistics:
    """The statistics over all devices, from the moments of each."""
    mean, squares = moments
    if axis_name is None:
        return Statistics(mean, squares / rows)
    overall = jax.lax.pmean(mean, axis_name)
    apart = squares + rows * jnp.square(mean - overall)
    return Statistics(overall, jax.lax.pmean(apart, axis_name) / rows)


class _Rows:
    """The places of images as rows, in the order that an implementation wants them in."""

    def __init__(self, primitives: ModuleType, shape: tuple[int, ...]) -> None:
        self._order = (*primitives.PLACES, 3)
        self._shape = shape

    def of(self, images: Array) -> Array:
        """`[batch, height, width, channels]` as `[rows, channels]`."""
        return images.transpose(self._order).reshape(-1, self._shape[-1])

    def back(self, rows: Array) -> Array:
        """Undoes `of`."""
        ordered = rows.reshape([self._shape[axis] for axis in self._order])
        return ordered.transpose(np.argsort(self._order))
