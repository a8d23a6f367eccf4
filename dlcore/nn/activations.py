"""Activation functions that `jax.nn` lacks, and the ones a model option may name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.errors import UsageError


def scaled_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1.7159 tanh(2x/3), whose second derivative is largest at +-1, the targets of its time.

    Source: LeCun, Bottou, Bengio and Haffner (1998), eq. 6 and appendix A.
    """
    return 1.7159 * jnp.tanh(x * (2 / 3))


_BY_NAME: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The elementwise function that a model's `activation` option names.

    Raises:
      UsageError: no such activation.
    """
    if name not in _BY_NAME:
        raise UsageError(f"unknown activation {name!r}: it is one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]
