"""The Hopfield network: patterns stored in one step, recalled by letting the units settle.

A clique of n units s_i = -1 or +1 with symmetric weights and no thresholds. No unit sees itself:
deck K's "including itself" slips, a weight to itself only holds a unit where it is.

Source: Hopfield (1982), "Neural networks and physical systems with emergent collective
computational abilities", written with -1 and +1. The weights are his, without the usual 1 / n: of
whole numbers, so that every sum here is exact (below 2^24) and no rounding decides about a sign.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


def store(patterns: Float[Array, "patterns units"]) -> Float[Array, "units units"]:
    """Hebb's rule: w_ij = sum over patterns of x_i x_j, and w_ii = 0 (Hopfield's eq. 2).

    Args:
      patterns: of -1 and +1.
    """
    weights = patterns.T @ patterns
    return weights - jnp.diag(jnp.diag(weights))


def energy(
    weights: Float[Array, "units units"], states: Float[Array, "*states units"]
) -> Float[Array, "*states"]:
    """-1/2 s W s of each state (Hopfield's eq. 7), which no asynchronous update raises."""
    return -0.5 * jnp.einsum("...i,ij,...j->...", states, weights, states)


def sweep(
    weights: Float[Array, "units units"],
    states: Float[Array, "states units"],
    order: Int[Array, " updates"],
) -> Float[Array, "states units"]:
    """Updates units one after the other: each takes the sign of its input, or stays where it is 0.

    Args:
      weights: symmetric, with a diagonal of 0.
      states: each of -1 and +1, and updated by itself.
      order: the units to update.
    """

    def update(states: Array, unit: Array) -> tuple[Array, None]:
        signs = jnp.sign(states @ weights[unit])
        return states.at[:, unit].set(jnp.where(signs == 0, states[:, unit], signs)), None

    return jax.lax.scan(update, states, order)[0]


def recall(
    weights: Float[Array, "units units"],
    states: Float[Array, "states units"],
    key: PRNGKeyArray,
    max_sweeps: int = 100,
) -> tuple[Float[Array, "states units"], Bool[Array, ""]]:
    """Sweeps over all units, each time in another random order, until no unit changes.

    Args:
      weights: as `store` gives them.
      states: where to start, each of -1 and +1.
      key: of the orders.
      max_sweeps: where to stop, settled or not.

    Returns:
      the states, and whether all have settled: energy can only fall and then stands still.
    """

    def unsettled(carry: tuple) -> Array:
        _, moved, count = carry
        return moved & (count < max_sweeps)

    def step(carry: tuple) -> tuple:
        states, _, count = carry
        order = jax.random.permutation(jax.random.fold_in(key, count), weights.shape[0])
        swept = sweep(weights, states, order)
        return swept, (swept != states).any(), count + 1

    states, moved, _ = jax.lax.while_loop(unsettled, step, (states, jnp.array(True), 0))
    return states, ~moved
