"""Pooling over windows: the largest, the sum, the Lp norm; with indices, and undone by them.

Windows may have any number of axes, overlap (Krizhevsky, Sutskever and Hinton, 2012, section 3.4)
and reach over the edge. The average is Flax's `nn.avg_pool`; global pooling needs no window: it is
`x.max` or `x.mean` over the axes. Here is also the trainable subsampling of 1998.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dlcore.errors import UsageError
from dlcore.nn.initializers import uniform_by_fan_in

# "SAME", "VALID", "CEIL", or the positions to add before and after each axis. "CEIL" adds what the
# last window lacks where strides leave a remainder, as PyTorch's `ceil_mode` and Caffe do.
Padding = str | Sequence[tuple[int, int]]


def max_pool(
    x: Float[Array, "batch *space channels"],
    window: Sequence[int] = (2, 2),
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "batch *new_space channels"]:
    """The largest number of each window.

    Where several numbers of a window are the largest, they share the gradient, halving it from pair
    to pair: along the first axis, then along the next. (`nn.max_pool` gives it to the first of
    them, by select-and-scatter, which has no deterministic form on a GPU and on a CPU makes LeNet-5
    a quarter slower.)

    Args:
      x: with as many axes between batch and channels as the window has.
      window: its size; without padding, rows that fill no window are left out.
      strides: distance between windows; by default they lie side by side.
      padding: positions around the input, which no window picks.

    Raises:
      UsageError: no window fits, or one lies in the padding alone.
    """
    return _over_windows(jnp.maximum, x, _windows(x, window, strides, padding), -jnp.inf)


def sum_pool(
    x: Float[Array, "batch *space channels"],
    window: Sequence[int] = (2, 2),
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "batch *new_space channels"]:
    """The sum of each window; arguments and errors as for `max_pool`."""
    return _over_windows(jnp.add, x, _windows(x, window, strides, padding), 0.0)


def lp_pool(
    x: Float[Array, "batch *space channels"],
    p: int | float,
    window: Sequence[int] = (2, 2),
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "batch *new_space channels"]:
    """The Lp norm of each window, (sum |x|^p)^(1/p): from the sum at p = 1 toward the maximum.

    Numbers are joined pair by pair, as the larger times (1 + (smaller / larger)^p)^(1/p): no power
    leaves the range of floats, in the gradient neither. That of a window of zeros is zero.
    (PyTorch's `lp_pool2d` leaves the absolute value out: it differs for odd p where numbers are
    negative.)

    Source: Sermanet, Chintala and LeCun (2012), section 2.2, without their Gaussian weights.

    Raises:
      UsageError: p is below 1, or as for `max_pool`.
    """
    if not p >= 1:
        raise UsageError(f"the p of Lp pooling is at least 1, not {p}")

    # The absolute value, with a gradient of 0 at 0: that of `jnp.abs` is 1.
    sizes = x * jnp.sign(x)
    join = functools.partial(_norm_of_pair, p)
    return _over_windows(join, sizes, _windows(x, window, strides, padding), 0.0)


def adaptive_avg_pool(
    x: Float[Array, "batch height width channels"], size: tuple[int, int]
) -> Float[Array, "batch {size[0]} {size[1]} channels"]:
    """The mean of each cell of a grid of that size, whatever the size of the input.

    Cell i of m over n rows has the rows from floor(i n / m) to ceil((i + 1) n / m): cells overlap
    by one where m does not divide n, and repeat where n is smaller. The cells are PyTorch's.
    """
    for axis, cells in enumerate(size, start=1):
        length, means = x.shape[axis], []
        if length == cells:
            continue
        for cell in range(cells):
            first, end = cell * length // cells, -(-(cell + 1) * length // cells)
            means.append(jax.lax.slice_in_dim(x, first, end, axis=axis).mean(axis))
        x = jnp.stack(means, axis)
    return x


def max_pool_with_indices(
    x: Float[Array, "batch *space channels"],
    window: Sequence[int] = (2, 2),
    strides: Sequence[int] | None = None,
) -> tuple[Float[Array, "batch *new_space channels"], Int[Array, "batch *new_space channels"]]:
    """The largest number of each window, and where in its channel it was, for `unpool`.

    An index counts the positions of a channel row by row. Of several largest the first is taken,
    and gets the whole gradient.

    Source: Zeiler and Fergus (2014), section 2.1, who name the indices switches.

    Raises:
      UsageError: no window fits.
    """
    windows = _windows(x, window, strides, "VALID")
    positions = np.arange(math.prod(windows.shape)).reshape(1, *windows.shape, 1)
    looks = [_at(offset, windows) for offset in np.ndindex(*windows.size)]
    candidates = jnp.stack([x[look] for look in looks], axis=-1)
    sources = np.stack([positions[look] for look in looks], axis=-1)
    picked = jnp.argmax(candidates, axis=-1, keepdims=True)
    indices = jnp.take_along_axis(jnp.broadcast_to(sources, candidates.shape), picked, axis=-1)
    return jnp.take_along_axis(candidates, picked, axis=-1)[..., 0], indices[..., 0]


def unpool(
    values: Float[Array, "batch *space channels"],
    indices: Int[Array, "batch *space channels"],
    shape: Sequence[int],
) -> Float[Array, "batch *new_space channels"]:
    """Puts numbers where `max_pool_with_indices` took its own from, and zeros elsewhere.

    It is the transpose of that taking: numbers that overlapping windows took from one position are
    added up there.

    Source: Noh, Hong and Han (2015), section 3.2.1.

    Args:
      values: what to put.
      indices: where, in the same example and channel.
      shape: height and width, say, of the input that the indices come from.
    """
    batch, channels = values.shape[0], values.shape[-1]
    flat = jnp.zeros((batch, math.prod(shape), channels), values.dtype)
    example, channel = jnp.arange(batch)[:, None, None], jnp.arange(channels)
    flat = flat.at[example, indices.reshape(batch, -1, channels), channel].add(
        values.reshape(batch, -1, channels)
    )
    return flat.reshape(batch, *shape, channels)


class TrainableSubsampling(nn.Module):
    """Each channel's 2x2 windows summed, times a trainable coefficient, plus a trainable bias.

    Each channel has one coefficient and one bias; the windows do not overlap. The squashing
    function is the caller's.

    Source: LeCun, Bottou, Bengio and Haffner (1998), section II.B, layers S2 and S4, appendix A.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height//2 width//2 channels"]:
        """Halves height and width; an odd last row or column is left out."""
        channels = x.shape[-1:]
        coefficient = self.param("coefficient", uniform_by_fan_in(4), channels, jnp.float32)
        bias = self.param("bias", uniform_by_fan_in(4), channels, jnp.float32)
        return sum_pool(x) * coefficient + bias


class _Windows(NamedTuple):
    """The windows over an input, with an entry for each axis; `shape` is after padding."""

    shape: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]


def _windows(
    x: jax.Array, window: Sequence[int], strides: Sequence[int] | None, padding: Padding
) -> _Windows:
    size, space = tuple(window), x.shape[1:-1]
    steps = size if strides is None else tuple(strides)
    if not len(size) == len(steps) == len(space) or min(*size, *steps) < 1:
        raise UsageError(
            f"inputs of {_by(space)} take a window and strides of {len(space)} positive numbers, "
            f"not {_by(size)} and {_by(steps)}"
        )
    pads = padding
    if pads == "CEIL":
        spans = zip(space, size, steps, strict=True)
        pads = [(0, (own - length) % step) for length, own, step in spans]
    elif isinstance(pads, str):
        pads = jax.lax.padtype_to_pads(space, size, steps, pads)
    if any(max(pair) >= length for pair, length in zip(pads, size, strict=True)):
        raise UsageError(f"a window of {_by(size)} is not larger than its padding {pads}")
    shape = tuple(length + sum(pair) for length, pair in zip(space, pads, strict=True))
    if any(length < own for length, own in zip(shape, size, strict=True)):
        raise UsageError(f"a window of {_by(size)} does not fit into {_by(shape)}")
    return _Windows(shape, size, steps, tuple(pads))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _norm_of_pair(p: int | float, first: jax.Array, second: jax.Array) -> jax.Array:
    """(first^p + second^p)^(1/p), of numbers that are not negative."""
    return jnp.maximum(first, second) * (1 + _ratio(first, second) ** p) ** (1 / p)


@_norm_of_pair.defjvp
def _norm_of_pair_tangent(
    p: int | float, numbers: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    # By the ratio alone. JAX's own derivative squares the divisor, which leaves the range of floats
    # long before the divisor does.
    first, second = numbers
    ratio = _ratio(first, second)
    by_larger = (1 + ratio**p) ** (1 / p - 1)
    by_smaller = ratio ** (p - 1) * by_larger
    moved = jnp.where(first >= second, by_larger, by_smaller) * tangents[0]
    moved += jnp.where(first > second, by_smaller, by_larger) * tangents[1]
    return _norm_of_pair(p, first, second), moved


def _ratio(first: jax.Array, second: jax.Array) -> jax.Array:
    """The smaller of two numbers by the larger; 1 where they are equal, and be they 0."""
    larger, smaller = jnp.maximum(first, second), jnp.minimum(first, second)
    differ = larger > smaller
    return jnp.where(differ, smaller / jnp.where(differ, larger, 1), 1)


def _over_windows(
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    windows: _Windows,
    outside: float,
) -> jax.Array:
    """Each window's numbers combined, pair by pair: along its first axis, then the next."""
    pads = [(low, high, 0) for low, high in ((0, 0), *windows.pads, (0, 0))]
    x = jax.lax.pad(x, jnp.asarray(outside, x.dtype), pads)
    for axis, (length, size, stride, _) in enumerate(zip(*windows, strict=True), start=1):
        # The last window begins at `length - size` or before it.
        parts = [
            jax.lax.slice_in_dim(x, first, first + length - size + 1, stride, axis)
            for first in range(size)
        ]
        x = functools.reduce(combine, parts)
    return x


def _at(offset: Sequence[int], windows: _Windows) -> tuple[slice, ...]:
    """The index of the number at one position of every window, without padding."""
    slices = (
        slice(first, first + length - size + 1, stride)
        for first, (length, size, stride, _) in zip(offset, zip(*windows, strict=True), strict=True)
    )
    return (slice(None), *slices)


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
