"""Normalization over the batch, over an example's own units, and over a neighborhood of them.

Layer and group normalization are Flax's; `normalization` makes any of them by the name that a
model's option gives.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore import parallel
from dlcore.errors import UsageError

# The collection of the running averages.
STATISTICS = "batch_stats"
# The collection into which a batch's own statistics are sown, where it is asked for.
MOMENTS = "batch_moments"


class RunningAverages:
    """The running averages of batches' statistics that a module keeps for its evaluation.

    They are its variables `mean` and `var` in the collection `STATISTICS`. Where the collection
    `MOMENTS` is mutable, every batch's own statistics are sown into that.

    Args:
      module: to make them in its `__call__`.
      features: of what it normalizes.
      momentum: weight of the old value.
    """

    def __init__(self, module: nn.Module, features: int, momentum: float) -> None:
        self._module, self._momentum = module, momentum
        self.mean = module.variable(STATISTICS, "mean", jnp.zeros, features, jnp.float32)
        self.var = module.variable(STATISTICS, "var", jnp.ones, features, jnp.float32)

    def move(
        self, mean: Float[Array, " features"], var: Float[Array, " features"], count: int
    ) -> None:
        """Moves them toward a training batch's mean and unbiased variance.

        Args:
          mean: of the batch.
          var: the biased variance.
          count: how many numbers, on all devices, each of them was computed from.

        Raises:
          UsageError: it is one number, of which normalization leaves nothing.
        """
        if self._module.is_initializing():
            return
        if count == 1:
            raise UsageError(
                f"batch normalization of {'/'.join(self._module.path)} sees one value a feature at "
                "a time, of which it leaves nothing: raise batch_size, lower accumulate, or take "
                "another normalization"
            )
        unbiased = var * (count / (count - 1))
        for name, average, value in (("mean", self.mean, mean), ("var", self.var, unbiased)):
            average.value = self._momentum * average.value + (1 - self._momentum) * value
            self._module.sow(MOMENTS, name, value)


class BatchNorm(nn.Module):
    """Batch normalization of the last axis's features, over the global batch and every other axis.

    Statistics are those of `batch_statistics`: any number of devices gives what one gives. Training
    normalizes by the biased variance of the batch and keeps a running average of the unbiased one,
    which evaluation uses.

    Source: Ioffe and Szegedy (2015), algorithms 1 and 2. That the running average is exponential,
    where they average over the last batches, is what implementations share.

    Attributes:
      momentum: weight of the old value in the running averages.
      epsilon: added to the variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "... features"], train: bool
    ) -> Float[Array, "... features"]:
        """Normalizes, scales and shifts; with `train` set also moves the running averages."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        averages = RunningAverages(self, features, self.momentum)

        if train:
            mean, var = batch_statistics(x)
            averages.move(mean, var, x.size // features * parallel.axis_size())
        else:
            mean, var = averages.mean.value, averages.var.value
        wide = x.astype(jnp.float32)
        normalized = (wide - mean) * (scale / jnp.sqrt(var + self.epsilon)) + bias
        return normalized.astype(x.dtype)


def batch_statistics(
    x: Float[Array, "... features"],
) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
    """Each feature's mean and biased variance over the global batch and every other axis.

    In float32 and in two passes: one pass cancels where the mean is large. The second also finds by
    how much rounding in the first has missed the mean, so that what is constant has exactly its
    value for the mean, and no variance (Chan, Golub and LeVeque, 1983, equation 1.7).
    """
    wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1] * parallel.axis_size()
    mean = parallel.psum(wide.sum(axes)) / count
    deviations = wide - mean
    sums = parallel.psum((deviations.sum(axes), jnp.square(deviations).sum(axes)))
    # No function of what is normalized: without rounding it is 0.
    missed = jax.lax.stop_gradient(sums[0] / count)
    return mean + missed, jnp.maximum(sums[1] / count - jnp.square(missed), 0)


def local_response_normalization(
    x: Float[Array, "... channels"],
    size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
) -> Float[Array, "... channels"]:
    """Divides each number by (k + alpha s) ** beta, s the squares' sum over `size` channels around.

    Where the window reaches over the first or the last channel, s has fewer terms. (PyTorch's layer
    of that name divides its alpha by `size`.)

    Source: Krizhevsky, Sutskever and Hinton (2012), section 3.3.

    Raises:
      UsageError: the size is even, so that no window is centered.
    """
    squares = _window_sum(jnp.square(x), [1.0] * _odd(size), axis=-1)
    return x / (k + alpha * squares) ** beta


def subtractive_normalization(
    x: Float[Array, "batch height width channels"], size: int = 9
) -> Float[Array, "batch height width channels"]:
    """Subtracts the local mean: over all channels, and over space under a Gaussian window.

    The paper leaves two things open. Here the Gaussian's standard deviation is a quarter of the
    window, and at the border the weights inside the image sum to 1, so a constant image becomes 0
    everywhere: what is not more than the rounding of the mean is 0.

    Args:
      x: channels of features, or images.
      size: height and width of the window, an odd number of pixels; the paper's is 9.

    Source: Jarrett, Kavukcuoglu, Ranzato and LeCun (2009), on the layer N.

    Raises:
      UsageError: the size is even.
    """
    difference = x - _local_mean(x, size)
    # A mean of `size` times `size` weighted numbers, added along one axis and then the other.
    rounding = 2 * size * jnp.finfo(x.dtype).eps * _local_mean(jnp.abs(x), size)
    # The gradient stays that of the difference: this is the correction of a value.
    spurious = jnp.where(jnp.abs(difference) <= rounding, difference, 0)
    return difference - jax.lax.stop_gradient(spurious)


def divisive_normalization(
    x: Float[Array, "batch height width channels"], size: int = 9, epsilon: float = 1e-4
) -> Float[Array, "batch height width channels"]:
    """Divides by the local deviation, or by its mean over the image where that is larger.

    The local deviation is the root of the local mean of the squares, in the window of
    `subtractive_normalization`; it is taken as at least `epsilon`.

    Source: Jarrett, Kavukcuoglu, Ranzato and LeCun (2009), on the layer N.

    Raises:
      UsageError: the size is even.
    """
    # The bound stands inside the root, whose gradient at 0 is infinite.
    deviation = jnp.sqrt(jnp.maximum(_local_mean(jnp.square(x), size), epsilon**2))
    return x / jnp.maximum(deviation, deviation.mean((1, 2), keepdims=True))


def local_contrast_normalization(
    x: Float[Array, "batch height width channels"], size: int = 9
) -> Float[Array, "batch height width channels"]:
    """The subtractive normalization, then the divisive one (Jarrett et al., 2009)."""
    return divisive_normalization(subtractive_normalization(x, size), size)


def _local_mean(
    x: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch height width 1"]:
    reach = _odd(size) // 2
    # A Gaussian whose standard deviation is size / 4.
    window = [math.exp(-8 * (offset / size) ** 2) for offset in range(-reach, reach + 1)]
    # Of the window's part outside the image neither numbers nor weights count.
    both = jnp.stack([x.mean(-1), jnp.ones(x.shape[:3], x.dtype)])
    total, weight = _window_sum(_window_sum(both, window, axis=-1), window, axis=-2)
    return (total / weight)[..., None]


def _window_sum(
    x: Float[Array, "*shape"], weights: Sequence[float], axis: int
) -> Float[Array, "*shape"]:
    """The weighted sums over windows centered on each position of an axis; outside `x` is zero."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (len(weights) // 2, len(weights) // 2)
    padded = jnp.pad(x, pads)
    shifted = (
        jax.lax.slice_in_dim(padded, first, first + x.shape[axis], axis=axis)
        for first in range(len(weights))
    )
    return sum(
        (weight * array for weight, array in zip(weights, shifted, strict=True)), jnp.zeros_like(x)
    )


def _odd(size: int) -> int:
    if size < 1 or size % 2 == 0:
        raise UsageError(f"a normalization's window is an odd number, not {size}")
    return size


# A function of (x, train, name) that a module's `__call__` applies; its parameters are those of the
# module's part of that name.
Normalization = Callable[[jax.Array, bool, str], jax.Array]

# Normalizations of feature maps: units of a fully connected layer have no neighbors.
LOCAL = {
    "local_response": local_response_normalization,
    "subtractive": subtractive_normalization,
    "divisive": divisive_normalization,
    "local_contrast": local_contrast_normalization,
}
_NAMES = ("none", "batch", "layer", "group:GROUPS", *LOCAL)


def normalization(name: str) -> Normalization:
    """The normalization that a model's `normalization` option names.

    - "none";
    - "batch": `BatchNorm`;
    - "layer": over all units of a layer, of each example (Ba, Kiros and Hinton, 2016);
    - "group:GROUPS": over each of as many groups of channels (Wu and He, 2018);
    - "local_response", "subtractive", "divisive", "local_contrast": this file's functions with
      their defaults, for feature maps only.

    Raises:
      UsageError: no such normalization, or, when it is applied, it does not fit the units.
    """
    kind, _, argument = name.partition(":")
    if kind == "group" and argument.isdecimal() and int(argument) > 0:
        return lambda x, train, part: _group_normalization(x, int(argument), part)
    if name == "none":
        return lambda x, train, part: x
    if name == "batch":
        return lambda x, train, part: BatchNorm(name=part)(x, train)
    if name == "layer":
        return lambda x, train, part: nn.LayerNorm(
            epsilon=1e-5,
            reduction_axes=tuple(range(1, x.ndim)),
            use_fast_variance=False,
            name=part,
        )(_from_first(x, 1, name))
    if name in LOCAL:
        return lambda x, train, part: _normalize_channels(name, x)
    raise UsageError(f"unknown normalization {name!r}: it is one of {', '.join(_NAMES)}")


def placed(name: str, position: str) -> tuple[Normalization, Normalization]:
    """The normalizations before and after an activation function, for a model's two options.

    Ioffe and Szegedy (2015) normalize before it; the variant that Deledalle's lecture names, and
    the local normalizations in their papers, come after it.

    Args:
      name: of the normalization.
      position: "before" or "after".

    Raises:
      UsageError: no such normalization or position.
    """
    if position not in ("before", "after"):
        raise UsageError(
            f"normalize is before or after (the activation function), not {position!r}"
        )
    pair = normalization(name), normalization("none")
    return pair if position == "before" else pair[::-1]


def replaces_bias(name: str, position: str) -> bool:
    """Whether the normalization undoes a bias in front of it, and adds one of its own."""
    return (name, position) == ("batch", "before")


def _group_normalization(
    x: Float[Array, "batch ... channels"], groups: int, name: str
) -> Float[Array, "batch ... channels"]:
    if x.shape[-1] % groups:
        raise UsageError(
            f"normalization='group:{groups}': {x.shape[-1]} channels do not divide into so many"
        )
    return nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False, name=name)(
        _from_first(x, groups, f"group:{groups}")
    )


def _from_first(
    x: Float[Array, "batch ... channels"], groups: int, normalization: str
) -> Float[Array, "batch ... channels"]:
    """Each example's groups of channels, less the first number of each.

    A normalization forgets what is subtracted. But Flax's rounds a mean, and where all numbers are
    equal, what it divides is that rounding; now they are 0.

    Raises:
      UsageError: a group is one number.
    """
    size = x.shape[-1] // groups
    if x[:1].size == groups:
        raise UsageError(
            f"normalization={normalization!r} sees one number at a time, of which it leaves "
            "nothing: take fewer groups, more units, or another normalization"
        )
    first = x.reshape(x.shape[0], -1, x.shape[-1])[:, 0, ::size]
    first = jnp.repeat(first, size, axis=-1)
    return x - jax.lax.stop_gradient(jnp.expand_dims(first, tuple(range(1, x.ndim - 1))))


def _normalize_channels(name: str, x: jax.Array) -> jax.Array:
    if x.ndim != 4:
        raise UsageError(
            f"normalization={name!r} needs feature maps [height, width, channels], "
            f"not {x.shape[1:]}: for units without neighbors take batch, layer or group"
        )
    return LOCAL[name](x)
