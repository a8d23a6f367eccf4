"""Second derivatives without a matrix: the Hessian's product with a vector (Pearlmutter, 1994)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Function = Callable[[jax.Array], jax.Array]


def hessian_vector_product(function: Function, point: jax.Array, vector: jax.Array) -> jax.Array:
    """`H v`, at the cost of about two gradients: the gradient's derivative along `v`.

    Args:
      function: `[dimension]` to a scalar.
      point: where the Hessian H is taken, `[dimension]`.
      vector: `[dimension]`.
    """
    return jax.jvp(jax.grad(function), (point,), (vector,))[1]


def hessian(function: Function, point: jax.Array) -> jax.Array:
    """The whole matrix `[dimension, dimension]`, a product with each basis vector."""
    basis = jnp.eye(point.size, dtype=point.dtype)
    return jax.vmap(lambda vector: hessian_vector_product(function, point, vector))(basis)


def negative_share(eigenvalues: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """How many eigenvalues are below zero, as a share: 0 at a minimum, 1 at a maximum.

    Args:
      eigenvalues: `[..., dimension]`.
      tolerance: what counts as zero, in units of the largest magnitude.
    """
    zero = tolerance * np.abs(eigenvalues).max(axis=-1, keepdims=True)
    return (eigenvalues < -zero).mean(axis=-1)
