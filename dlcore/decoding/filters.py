"""Which tokens may be drawn: top-k (Fan et al. 2018) and the nucleus (Holtzman et al. 2020)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def top_k(
    log_probabilities: Float[Array, "rows vocabulary"], k: int
) -> Bool[Array, "rows vocabulary"]:
    """The k most probable tokens; of equal ones those of the lower index."""
    rank = _ranks(jnp.argsort(-log_probabilities, axis=-1))
    return rank < k


def nucleus(
    log_probabilities: Float[Array, "rows vocabulary"], p: float | jax.Array
) -> Bool[Array, "rows vocabulary"]:
    """The smallest set whose probability is at least p; of equal tokens those of the lower index.

    The most probable token is always one of them, and with p = 1 all are (section 3.1). The
    log-probabilities may be short of a constant.
    """
    probabilities = jax.nn.softmax(log_probabilities, axis=-1)
    order = jnp.argsort(-probabilities, axis=-1)
    descending = jnp.take_along_axis(probabilities, order, axis=-1)
    before = jnp.cumsum(descending, axis=-1) - descending
    # A sum that is rounded to 1 would leave out the last ones.
    kept = (before < p) | (jnp.asarray(p) >= 1)
    return jnp.take_along_axis(kept, _ranks(order), axis=-1)


def _ranks(order: jax.Array) -> jax.Array:
    """The place of every token in an order of them: the inverse permutation."""
    return jnp.argsort(order, axis=-1)
