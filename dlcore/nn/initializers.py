"""Initializers that `jax.nn.initializers` lacks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def uniform_by_fan_in(fan_in: int | np.ndarray) -> Callable[..., jax.Array]:
    """Uniform between -2.4 / fan_in and 2.4 / fan_in, for weights and biases alike.

    The fan-in is the number of inputs of a unit, told by the caller: a bias's shape does not show
    it. An array of them, one a unit, broadcasts against the last axis.

    Source: LeCun, Bottou, Bengio and Haffner (1998), appendix A.
    """
    bound = 2.4 / np.asarray(fan_in, np.float32)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
