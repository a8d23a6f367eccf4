"""The public functions, and the gradient of the training block.

`conv_bn_relu` is built of two primitives, `conv_stats` and `normalise`. A convolution's own
transposes are XLA's, whatever computed it. Back through a normalisation there are two passes over
what was stored: one adds up, the second one writes; between them the sums cross the devices.
"""

import dataclasses
import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from kernels import dispatch, shapes
from kernels.conv_bn_relu import dispatch as block_dispatch
from kernels.conv_bn_relu import reference, xla
from kernels.conv_bn_relu.types import (
    ACTIVATIONS,
    Geometry,
    Moments,
    Normalisation,
    Statistics,
)

Strides = int | tuple[int, int]
Padding = str | Sequence[tuple[int, int]]
Images = Float[Array, "batch height width inputs"]
Kernel = Float[Array, "rows columns inputs outputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]
Vector = Float[Array, " outputs"]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is fixed while a call is traced: who serves each part, and the convolution's sizes."""

    normalise: ModuleType
    conv: ModuleType
    geometry: Geometry


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
    implementation: str = "auto",
) -> tuple[Outputs, Statistics]:
    """Convolution, batch normalisation by the batch's own statistics, activation.

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
        "mosaic_tpu". `explain` says what "auto" picks and why. Convolutions for which the named one
        has no kernel are XLA's.

    Returns:
      y, and the statistics, from which a caller keeps running averages.

    Raises:
      ValueError: the shapes or dtypes do not fit each other, or the named implementation does not
        serve this device; the message says why.
    """
    geometry = geometry_of(x, kernel, strides, padding)
    _check_dtype(x)
    _check_normalisation(scale, bias, residual, geometry, x.dtype, activation)
    if implementation == "reference":
        return reference.conv_bn_relu(
            x,
            kernel,
            scale,
            bias,
            residual,
            geometry,
            activation=activation,
            epsilon=epsilon,
            axis_name=axis_name,
        )
    raw, statistics = conv_stats(
        x,
        kernel,
        strides=strides,
        padding=padding,
        axis_name=axis_name,
        implementation=implementation,
    )
    normalisation = Normalisation(*statistics, scale, bias, activation, epsilon, axis_name)
    return normalise(raw, normalisation, residual, implementation=implementation), statistics


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

    A convolution with a bias is left, which XLA serves: no pass over its result is to be saved.

    Arguments and errors are those of `conv_bn_relu`; `mean` and `variance` are the running ones.
    """
    geometry = geometry_of(x, kernel, strides, padding)
    _check_dtype(x)
    _check_normalisation(scale, bias, residual, geometry, x.dtype, activation)
    factor = scale.astype(jnp.float32) * jax.lax.rsqrt(variance + epsilon)
    folded = (kernel.astype(jnp.float32) * factor).astype(x.dtype)
    y = xla.convolve(x, folded, geometry).astype(jnp.float32) + (bias - mean * factor)
    if residual is not None:
        y += residual.astype(jnp.float32)
    return (jax.nn.relu(y) if activation == "relu" else y).astype(x.dtype)


def conv_stats(
    x: Images,
    kernel: Kernel,
    pending: Normalisation | None = None,
    *,
    strides: Strides = 1,
    padding: Padding = "SAME",
    axis_name: str | None = None,
    implementation: str = "auto",
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
    _check_dtype(x)
    chosen = block_dispatch.choose_conv(implementation, geometry, x.dtype, pending is not None)
    if pending is not None and chosen.name == "xla":
        # XLA has no convolution that normalises what it reads; what is normalised is kept.
        x, pending = normalise(x, pending, implementation=implementation), None
    places = geometry.batch * geometry.height * geometry.width
    before = block_dispatch.choose_normalise(
        implementation, places, geometry.inputs, x.dtype, residual=False
    )
    plan = _Plan(before.primitives, chosen.primitives, geometry)
    operands = shapes.vary_alike((x, kernel.astype(x.dtype), pending))
    raw, moments = _conv_stats(plan, *operands)
    return raw, _synchronise(moments, geometry.rows, axis_name)


def normalise(
    raw: Images,
    normalisation: Normalisation,
    residual: Images | None = None,
    *,
    implementation: str = "auto",
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
    channels = raw.shape[-1]
    chosen = block_dispatch.choose_normalise(
        implementation, raw.size // channels, channels, raw.dtype, residual is not None
    )
    return _normalise(chosen.primitives, *shapes.vary_alike((raw, normalisation, residual)))


def explain(
    x_shape: tuple[int, int, int, int],
    kernel_shape: tuple[int, int, int, int],
    dtype: Any,
    *,
    strides: Strides = 1,
    padding: Padding = "SAME",
    residual: bool = False,
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

    Returns:
      "conv_stats" and "normalise", each from implementation to the answer.
    """
    shape = jax.ShapeDtypeStruct
    geometry = geometry_of(shape(x_shape, dtype), shape(kernel_shape, dtype), strides, padding)
    conv = block_dispatch.choose_conv("auto", geometry, dtype, pending=False)
    rest = block_dispatch.choose_normalise("auto", geometry.rows, geometry.outputs, dtype, residual)
    refusals = block_dispatch.conv_refusals(geometry, dtype)
    return {
        "conv_stats": {**dispatch.explain(refusals), "auto": f"{conv.name}: {conv.reason}"},
        "normalise": {
            **dispatch.explain(dict.fromkeys(refusals)),
            "auto": f"{rest.name}: {rest.reason}",
        },
    }


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalise(
    primitives: ModuleType, raw: Array, normalisation: Normalisation, residual: Array | None
) -> Array:
    flat = None if residual is None else _flat(residual)
    values = primitives.normalise(
        _flat(raw), normalisation.affine, flat, activation=normalisation.activation
    )
    return values.reshape(raw.shape)


def _normalise_forward(
    primitives: ModuleType, raw: Array, normalisation: Normalisation, residual: Array | None
) -> tuple[Array, Any]:
    y = _normalise(primitives, raw, normalisation, residual)
    return y, (raw, normalisation, None if residual is None else y)


def _normalise_backward(primitives: ModuleType, residuals: Any, cotangent: Array) -> Any:
    raw, normalisation, y = residuals
    return _pull_back(primitives, raw, normalisation, y, cotangent)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _pull_back(
    primitives: ModuleType,
    raw: Array,
    normalisation: Normalisation,
    y: Array | None,
    cotangent: Array,
) -> tuple[Array, Normalisation, Array | None]:
    """The cotangents of raw, the normalisation and, where y is given, the residual."""
    affine, activation = normalisation.affine, normalisation.activation
    flat = _flat(raw)
    given = _flat(cotangent)
    outputs = None if y is None or activation == "none" else _flat(y)
    sums, masked = primitives.cotangent_sums(flat, affine, outputs, given, activation=activation)
    rows, axis_name = flat.shape[0], normalisation.axis_name
    everywhere = sums
    if axis_name is not None:
        everywhere = jax.lax.psum(sums, axis_name)
        rows *= jax.lax.axis_size(axis_name)
    inverse = normalisation.deviation_inverse
    # By how much the mean of what is stored differs from the mean as it was rounded.
    error = everywhere.centred / rows
    moment = everywhere.products - error * everywhere.cotangents
    slope = -affine.factor * inverse**2 * moment / rows
    before = given if masked is None else masked
    raw_cotangent = primitives.cotangent(
        flat,
        affine,
        before,
        slope,
        -affine.factor * everywhere.cotangents / rows - slope * error,
        activation="none" if masked is not None else activation,
    )
    scale_cotangent = (sums.products - error * sums.cotangents) * inverse
    zeros = jnp.zeros_like(normalisation.mean)
    return (
        raw_cotangent.reshape(raw.shape),
        dataclasses.replace(
            normalisation,
            mean=zeros,
            variance=zeros,
            scale=scale_cotangent.astype(normalisation.scale.dtype),
            bias=sums.cotangents.astype(normalisation.bias.dtype),
        ),
        None if y is None else before.reshape(raw.shape),
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
    return (raw, moments), (x, kernel, pending, raw, moments.mean)


def _conv_stats_backward(plan: _Plan, residuals: Any, cotangents: Any) -> Any:
    x, kernel, pending, raw, mean = residuals
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
    activated = x
    if pending is not None:
        flat = plan.normalise.normalise(
            _flat(x), pending.affine, None, activation=pending.activation
        )
        activated = flat.reshape(x.shape)
    x_cotangent, kernel_cotangent = _transposes(plan.geometry, activated, kernel, raw_cotangent)
    if pending is None:
        return x_cotangent, kernel_cotangent, None
    x_cotangent, normalisation, _ = _pull_back(plan.normalise, x, pending, None, x_cotangent)
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


def _flat(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


def geometry_of(x: Any, kernel: Any, strides: Strides, padding: Padding) -> Geometry:
    """The sizes of a convolution; raises ValueError where they do not fit each other."""
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            "x is [batch, height, width, inputs] and the kernel [rows, columns, inputs, outputs], "
            f"not {x.shape} and {kernel.shape}"
        )
    batch, height, width, inputs = x.shape
    rows, columns, _, outputs = kernel.shape
    down, across = (strides, strides) if isinstance(strides, int) else strides
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding is SAME, VALID or pairs of numbers, not {padding!r}")
        padding = jax.lax.padtype_to_pads((height, width), (rows, columns), (down, across), padding)
    vertical, horizontal = ((int(low), int(high)) for low, high in padding)
    geometry = Geometry(
        batch,
        height,
        width,
        inputs,
        outputs,
        (rows, columns),
        (down, across),
        (vertical, horizontal),
    )
    if min(geometry.space) < 1 or not batch:
        raise ValueError(
            f"a {rows}x{columns} kernel with padding {padding} has no place in {batch} images of "
            f"{height}x{width}"
        )
    return geometry


def _check_dtype(x: Array) -> None:
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"x is float32 or bfloat16, not {x.dtype}")


def _check_normalisation(
    scale: Array,
    bias: Array,
    residual: Array | None,
    geometry: Geometry,
    dtype: Any,
    activation: str,
) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {' or '.join(ACTIVATIONS)}, not {activation!r}")
    outputs = (geometry.outputs,)
    expected = {"scale": (scale, outputs), "bias": (bias, outputs)}
    if residual is not None:
        expected["residual"] = (residual, (geometry.batch, *geometry.space, geometry.outputs))
        if residual.dtype != dtype:
            raise ValueError(f"the residual is {dtype} as x is, not {residual.dtype}")
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, and should have {shape}")
