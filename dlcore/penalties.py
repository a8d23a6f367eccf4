"""Penalties that are added to a loss: of parameters, of activations, of a function's slope.

In a training the penalties of parameters are fields of the recipe, and the optimizer adds their
gradients: `weight_decay` k is that of k/2 `l2` (Perez's gamma, Deledalle's kappa; the lambda of
Krawiec and of Laurent and Guillozet, without the half, is k/2), `l1` is that of `l1`, and both
together are `elastic`. Ridge regression is least squares with `l2`, the lasso (Tibshirani 1996) is
with `l1`; Krawiec swaps the two names.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.losses import magnitude
from dlcore.optim.builder import decay_mask


def l2(params: Any) -> Float[Array, ""]:
    """The sum of the squared weights; biases and normalization are left out (see `decay_mask`)."""
    return _sum_over_weights(jnp.square, params)


def l1(params: Any) -> Float[Array, ""]:
    """The sum of the weights' absolute values; biases and normalization are left out."""
    return _sum_over_weights(magnitude, params)


def elastic(
    params: Any, l1_weight: float | jax.Array, weight_decay: float | jax.Array
) -> Float[Array, ""]:
    """`l1_weight` `l1` + `weight_decay` / 2 `l2` (Zou and Hastie 2005, section 2.1)."""
    return l1_weight * l1(params) + weight_decay / 2 * l2(params)


def _sum_over_weights(function: Callable[[jax.Array], jax.Array], params: Any) -> jax.Array:
    parts = jax.tree.map(
        lambda parameter, is_weight: function(parameter).sum() if is_weight else 0.0,
        params,
        decay_mask(params),
    )
    return jnp.asarray(sum(jax.tree.leaves(parts)))


def sparsity(activations: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """The sum of an example's absolute activations, the penalty of sparse autoencoders."""
    return magnitude(activations).reshape(activations.shape[0], -1).sum(-1)


def contractive(
    function: Callable[[jax.Array], jax.Array], x: Float[Array, "batch ..."]
) -> Float[Array, " batch"]:
    """The squared Frobenius norm of a function's Jacobian at each input (Rifai et al. 2011).

    Krawiec calls it the second derivative and prints, like the others, the first.

    Args:
      function: from one input, without a batch axis, to its code.
      x: the inputs.
    """
    jacobians = jax.vmap(jax.jacrev(function))(x)
    return jnp.square(jacobians).reshape(x.shape[0], -1).sum(-1)
