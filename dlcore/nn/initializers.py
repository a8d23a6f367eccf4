"""Initializers that `jax.nn.initializers` lacks, and the ones that a recipe's field may name.

`jax.nn.initializers.variance_scaling` has the normal and the uniform distribution of D with the
variance that a rule asks for: sigma^2, as a normal N(0, sigma^2) or uniform on +-sqrt(3) sigma. Its
`he_normal` and `glorot_normal` cut the normal's tails off, which the lectures do not; their
`xavier` divides by the fan-in alone, which JAX calls `lecun_normal`.

A rule reads the fan-in off a kernel's shape, as all axes but the last. Where that is something else
(weights that are not shared, connections that are missing) `unshared`, `partly_connected` and
`masked` tell it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import variance_scaling
from jax.typing import DTypeLike

from dlcore.errors import UsageError
from dlcore.nn.activations import activation

Initializer = Callable[..., jax.Array]

Distribution = Literal["normal", "uniform"]


def uniform_by_fan_in(fan_in: int | np.ndarray) -> Initializer:
    """Uniform between -2.4 / fan_in and 2.4 / fan_in, for weights and biases alike.

    The fan-in is the number of inputs of a unit, told by the caller: a bias's shape does not show
    it. An array of them, one a unit, broadcasts against the last axis.

    Source: LeCun, Bottou, Bengio and Haffner (1998), appendix A.
    """
    return small_uniform(np.asarray(2.4 / np.asarray(fan_in, np.float32)))


def small_uniform(bound: float | np.ndarray = 0.01) -> Initializer:
    """Uniform between -bound and bound, for weights and biases alike (K: 0.01 to 0.1)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def xavier(distribution: Distribution = "normal") -> Initializer:
    """Variance 1 / fan_in: a linear unit's output is as varied as its inputs (K and D).

    Glorot and Bengio (2010, eq. 16) average fan-in and fan-out; that is `glorot`.
    """
    return variance_scaling(1.0, "fan_in", distribution)


def glorot(distribution: Distribution = "normal") -> Initializer:
    """Variance 2 / (fan_in + fan_out), a compromise between activations and gradients.

    Source: Glorot and Bengio (2010), eq. 12 and 16.
    """
    return variance_scaling(1.0, "fan_avg", distribution)


def he(distribution: Distribution = "normal") -> Initializer:
    """Variance 2 / fan_in: ReLU lets half of the mean square through.

    Source: He, Zhang, Ren and Sun (2015), eq. 10.
    """
    return variance_scaling(2.0, "fan_in", distribution)


def kumar(
    g: Callable[[jax.Array], jax.Array], distribution: Distribution = "normal"
) -> Initializer:
    """Variance 1 / (fan_in g'(0)^2 (1 + g(0)^2)), for units with the activation function g.

    Source: Kumar (2017), "On weight initialization in deep neural networks", as D prints it.

    Raises:
      UsageError: g has no derivative at 0, or it is 0.
    """
    with jax.ensure_compile_time_eval():
        slope_at = jax.vmap(jax.grad(lambda x: g(x[None])[0]))
        value = float(g(jnp.zeros(1))[0])
        left, slope, right = map(float, slope_at(jnp.array([-1e-3, 0.0, 1e-3])))
    if slope == 0 or not math.isclose(left, right, rel_tol=0.05):
        raise UsageError(
            "kumar needs an activation with a derivative at 0 that is not 0: for relu use he"
        )
    return variance_scaling(1 / (slope**2 * (1 + value**2)), "fan_in", distribution)


def orthogonal(gain: float = 1.0) -> Initializer:
    """A matrix whose columns are orthonormal, or whose rows are where it is wider than high.

    It is U, or V^T, of the singular value decomposition U S V^T of a matrix of normal numbers; all
    axes of a kernel but the last, which counts the units, make up the columns' length.
    (`jax.nn.initializers.orthogonal` takes the Q of a QR decomposition instead.)

    Source: Saxe, McClelland and Ganguli (2014), as D prints it.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        matrix = jax.random.normal(key, (math.prod(shape[:-1]), shape[-1]), dtype)
        left, _, right = jnp.linalg.svd(matrix, full_matrices=False)
        return (gain * (left if left.shape == matrix.shape else right)).reshape(shape)

    return init


def unshared(rule: Initializer, kernel_size: Sequence[int]) -> Initializer:
    """A rule for the kernel of an `nn.ConvLocal`: at every position one of an ordinary convolution.

    That kernel is [*positions, numbers in a window, outputs]: read off its shape, the fan-in would
    count the positions, of which a unit sees one.

    Args:
      rule: for ordinary kernels.
      kernel_size: of the layer.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        *positions, numbers, outputs = shape
        ordinary = (*kernel_size, numbers // math.prod(kernel_size), outputs)
        keys = jax.random.split(key, math.prod(positions))
        return jax.vmap(lambda own: rule(own, ordinary, dtype))(keys).reshape(shape)

    return init


def partly_connected(rule: Initializer, table: Sequence[Sequence[int]]) -> Initializer:
    """A rule for the kernel of a `PartiallyConnectedConv`, whose units see different fan-ins.

    That kernel is [height, width, connections]. Each output channel is drawn as one of an ordinary
    convolution over the input channels that it sees, with as many outputs as an input has on
    average.

    Args:
      rule: for ordinary kernels.
      table: of the layer, the input channels of each output channel.
    """
    sources = [channel for channels in table for channel in channels]
    outputs = round(len(sources) / len(set(sources)))

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        kernels = [
            rule(own, (*shape[:-1], len(channels), outputs), dtype)[..., 0]
            for own, channels in zip(jax.random.split(key, len(table)), table, strict=True)
        ]
        return jnp.concatenate(kernels, axis=-1)

    return init


def masked(rule: Initializer, mask: np.ndarray) -> Initializer:
    """A rule for the kernel of a `MaskedDense`, [inputs, units], whose missing weights are 0.

    Each unit is drawn as one of an ordinary layer over the inputs that it sees, with as many units
    as an input has on average.

    Args:
      rule: for ordinary kernels.
      mask: of the layer, true where there is a connection, boolean [inputs, units].
    """
    seen = mask.sum(0)
    outputs = round(mask.sum() / max(mask.any(1).sum(), 1))

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        keys, kernel = jax.random.split(key, shape[1]), jnp.zeros(shape, dtype)
        for count in np.unique(seen[seen > 0]):
            units = np.flatnonzero(seen == count)
            inputs = np.stack([np.flatnonzero(mask[:, unit]) for unit in units])
            ordinary = (int(count), outputs)
            draw = jax.vmap(lambda own, shape=ordinary: rule(own, shape, dtype)[:, 0])
            kernel = kernel.at[inputs, units[:, None]].set(draw(keys[units]))
        return kernel

    return init


def _number(text: str, default: float) -> float:
    value = float(text or default)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def _distribution(text: str) -> Distribution:
    for distribution in get_args(Distribution):
        if text in (distribution, ""):
            return distribution
    raise ValueError


def _kumar(text: str) -> Initializer:
    if not text:
        raise ValueError
    return kumar(activation(text))


# How the text behind a name becomes an initializer, and what that text is, for messages.
_BY_NAME: dict[str, tuple[Callable[[str], Initializer], str]] = {
    "small_uniform": (lambda text: small_uniform(_number(text, 0.01)), "a bound above 0"),
    "small_normal": (
        lambda text: jax.nn.initializers.normal(_number(text, 0.01)),
        "a standard deviation above 0",
    ),
    "xavier": (lambda text: xavier(_distribution(text)), "normal or uniform"),
    "glorot": (lambda text: glorot(_distribution(text)), "normal or uniform"),
    "he": (lambda text: he(_distribution(text)), "normal or uniform"),
    "kumar": (_kumar, "an activation, as in kumar:sigmoid"),
    "orthogonal": (lambda text: orthogonal(_number(text, 1.0)), "a gain above 0"),
}

NAMES = tuple(_BY_NAME)


def initializer(name: str) -> Initializer:
    """The initializer of kernels that a recipe names: NAME, or NAME:ARGUMENT.

    The argument is the bound of small_uniform (0.01 by default), the standard deviation of
    small_normal (0.01), the distribution of xavier, glorot and he (normal, or uniform), the
    activation of kumar (which has no default) or the gain of orthogonal (1).

    Raises:
      UsageError: no such initializer, or it takes no such argument.
    """
    kind, _, argument = name.partition(":")
    if kind not in _BY_NAME:
        raise UsageError(f"unknown initializer {name!r}: it is one of {', '.join(NAMES)}")
    make, expected = _BY_NAME[kind]
    try:
        return make(argument)
    except UsageError:
        raise
    except ValueError:
        raise UsageError(f"initializer {name!r}: {kind} takes {expected}") from None
