"""Activation functions with their first derivatives, and the names by which options choose them.

What `jax.nn` has as the lectures define it is taken from there; the rest is here. A derivative is
the closed form, as a function of the activation's own input. It is what `jax.grad` of the same name
gives, also on a kink: there it is the slope to the left (of ReLU 0, as P's step function is at 0),
and pieces of maxout that tie for the largest share it evenly.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.errors import UsageError


def heaviside(x: Float[Array, "*shape"], surrogate_slope: float = 0.0) -> Float[Array, "*shape"]:
    """1 above 0, else 0: at 0 itself the unit is silent (P; L's `hard_threshold` fires there).

    Its derivative is 0 wherever it has one, so that nothing in front of it learns. With a positive
    `surrogate_slope` the gradient is that of a sigmoid of this slope instead; the value stays 0 or
    1. Source: Zenke and Ganguli (2018), "SuperSpike"; Neftci, Mostafa and Zenke (2019).
    """
    fired = (x > 0).astype(x.dtype)
    if not surrogate_slope:
        return fired
    soft = sigmoid(x, surrogate_slope)
    return fired + (soft - jax.lax.stop_gradient(soft))


def hard_threshold(x: Float[Array, "*shape"], beta: float = 0.0) -> Float[Array, "*shape"]:
    """1 from `beta` on, else 0 (L)."""
    return (x >= beta).astype(x.dtype)


def sigmoid(x: Float[Array, "*shape"], slope: float = 1.0) -> Float[Array, "*shape"]:
    """1 / (1 + exp(-slope x)) (K; P and L have slope 1)."""
    return jax.nn.sigmoid(slope * x)


def leaky_relu(x: Float[Array, "*shape"], leak: float = 0.1) -> Float[Array, "*shape"]:
    """X above 0, else leak x (K and D); at 0 its slope is the leak, where `jax.nn`'s has 1."""
    return jnp.where(x > 0, x, leak * x)


def scaled_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1.7159 tanh(2x/3), whose second derivative is largest at +-1, the targets of its time.

    Source: LeCun, Bottou, Bengio and Haffner (1998), eq. 6 and appendix A.
    """
    return 1.7159 * jnp.tanh(x * (2 / 3))


def maxout(x: Float[Array, "*shape inputs"], pieces: int = 2) -> Float[Array, "*shape units"]:
    """The largest of each `pieces` adjacent numbers, so that a layer hands on inputs / pieces.

    After a linear layer a unit is max(w1 x + b1, ..., wk x + bk) with k pieces (K draws two).
    Source: Goodfellow, Warde-Farley, Mirza, Courville and Bengio (2013).

    Raises:
      UsageError: the last axis does not divide into such groups.
    """
    return _groups(x, pieces).max(axis=-1)


def _groups(x: jax.Array, pieces: int) -> jax.Array:
    if x.shape[-1] % pieces:
        raise UsageError(
            f"maxout of {pieces} pieces takes a multiple of {pieces} units, not {x.shape[-1]}"
        )
    return x.reshape(*x.shape[:-1], -1, pieces)


def _heaviside_derivative(x: jax.Array, surrogate_slope: float = 0.0) -> jax.Array:
    return _sigmoid_derivative(x, surrogate_slope) if surrogate_slope else jnp.zeros_like(x)


def _sigmoid_derivative(x: jax.Array, slope: float = 1.0) -> jax.Array:
    # s(x) (1 - s(x)) without the subtraction, which leaves nothing of a small difference from 1.
    return slope * sigmoid(x, slope) * sigmoid(-x, slope)


def _tanh_derivative(x: jax.Array) -> jax.Array:
    # tanh x is 2 s(2x) - 1: for the same reason not 1 - tanh(x) ** 2, as it is printed.
    return 2 * _sigmoid_derivative(x, 2.0)


def _leaky_relu_derivative(x: jax.Array, leak: float) -> jax.Array:
    return jnp.where(x > 0, 1, leak).astype(x.dtype)


def _elu_derivative(x: jax.Array, alpha: float) -> jax.Array:
    return jnp.where(x > 0, 1, alpha * jnp.exp(jnp.minimum(x, 0)))


def _maxout_derivative(x: jax.Array, pieces: int = 2) -> jax.Array:
    groups = _groups(x, pieces)
    winners = (groups == groups.max(axis=-1, keepdims=True)).astype(x.dtype)
    return (winners / winners.sum(axis=-1, keepdims=True)).reshape(x.shape)


def _softmax_jacobian(x: jax.Array) -> jax.Array:
    p = jax.nn.softmax(x)
    return p[..., :, None] * (jnp.eye(x.shape[-1], dtype=x.dtype) - p[..., None, :])


class _Parameter(NamedTuple):
    """The number that may follow a name; it lies strictly between `low` and `high`."""

    name: str
    default: int | float
    low: float
    high: float = math.inf


class _Kind(NamedTuple):
    function: Callable[..., jax.Array]
    derivative: Callable[..., jax.Array]
    parameter: _Parameter | None = None


_KINDS = {
    "linear": _Kind(jax.nn.identity, jnp.ones_like),
    "heaviside": _Kind(
        heaviside, _heaviside_derivative, _Parameter("surrogate slope", 0.0, low=0.0)
    ),
    "hard_threshold": _Kind(
        hard_threshold,
        lambda x, beta: jnp.zeros_like(x),
        _Parameter("beta", 0.0, low=-math.inf),
    ),
    "sign": _Kind(jnp.sign, jnp.zeros_like),
    "sigmoid": _Kind(sigmoid, _sigmoid_derivative, _Parameter("slope", 1.0, low=0.0)),
    "tanh": _Kind(jnp.tanh, _tanh_derivative),
    "scaled_tanh": _Kind(scaled_tanh, lambda x: 1.7159 * (2 / 3) * _tanh_derivative(x * (2 / 3))),
    "relu": _Kind(jax.nn.relu, heaviside),
    "leaky_relu": _Kind(
        leaky_relu, _leaky_relu_derivative, _Parameter("leak", 0.1, low=0.0, high=1.0)
    ),
    "elu": _Kind(jax.nn.elu, _elu_derivative, _Parameter("alpha", 1.0, low=0.0)),
    "softplus": _Kind(jax.nn.softplus, sigmoid),
    "maxout": _Kind(maxout, _maxout_derivative, _Parameter("number of pieces", 2, low=1.0)),
    "softmax": _Kind(jax.nn.softmax, _softmax_jacobian),
}

NAMES = tuple(_KINDS)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function that a model's `activation` option names: NAME, or NAME:NUMBER.

    The number is the surrogate slope of heaviside (none by default), the beta of hard_threshold
    (0), the slope of sigmoid (1), the leak of leaky_relu (0.1: K and D), the alpha of elu (1) or
    the pieces of maxout (2). All work on each number alone but maxout, which leaves a layer with
    fewer units, and softmax, over the last axis.

    Raises:
      UsageError: no such activation, or it takes no such number.
    """
    kind, parameters = _parse(name)
    return _with(kind.function, parameters)


def derivative(name: str) -> Callable[[jax.Array], jax.Array]:
    """The first derivative of `activation(name)`, in closed form.

    Its shape is that of its input: for maxout it is 1 at the piece that wins, and shared evenly
    between pieces that tie. Only softmax, of
    which every output depends on every input, gives a Jacobian `[..., outputs, inputs]`.

    Raises:
      UsageError: as for `activation`.
    """
    kind, parameters = _parse(name)
    return _with(kind.derivative, parameters)


def _with(function: Callable[..., jax.Array], parameters: tuple) -> Callable[..., jax.Array]:
    return (lambda x: function(x, *parameters)) if parameters else function


@functools.cache
def _parse(text: str) -> tuple[_Kind, tuple[int | float, ...]]:
    """What a name stands for, and the one number it takes, if it takes one."""
    name, colon, number = text.partition(":")
    if name not in _KINDS:
        raise UsageError(f"unknown activation {text!r}: it is one of {', '.join(NAMES)}")
    kind = _KINDS[name]
    if kind.parameter is None:
        if colon:
            raise UsageError(f"activation {text!r}: {name} takes no number")
        return kind, ()
    wanted = kind.parameter
    if not colon:
        return kind, (wanted.default,)
    try:
        value = type(wanted.default)(number)
    except ValueError:
        value = math.nan
    if not wanted.low < value < wanted.high:
        whole = "a whole number" if isinstance(wanted.default, int) else "a number"
        span = f" above {wanted.low:g}" if wanted.low > -math.inf else ""
        span += f" and below {wanted.high:g}" if wanted.high < math.inf else ""
        raise UsageError(f"activation {text!r}: the {wanted.name} of {name} is {whole}{span}")
    return kind, (value,)
