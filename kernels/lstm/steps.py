"""The arithmetic of one step, shared by every implementation, inside and outside of kernels.

Everything is elementwise and in float32: the matrix products are the implementations' own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Four = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def by_gate(make: Callable[[int], jax.Array]) -> Four:
    """What is made for the gates number 0, 1, 2 and 3."""
    return make(0), make(1), make(2), make(3)


def split(joined: jax.Array) -> Four:
    """The gates that lie side by side in the last axis."""
    units = joined.shape[-1] // 4
    return by_gate(lambda gate: joined[..., gate * units : (gate + 1) * units])


def activate(sums: Four) -> Four:
    """The gates i, f, g, o from their sums."""
    i, f, g, o = sums
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


def advance(gates: Four, cell: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The states c and h after a step, from the gates and c before it."""
    i, f, g, o = gates
    cell = f * cell + i * g
    return cell, o * jnp.tanh(cell)


def retreat(
    gates: Four, cell: jax.Array, cell_cotangent: jax.Array, output_cotangent: jax.Array
) -> tuple[Four, jax.Array]:
    """The cotangents of the gates' sums, and of c before the step.

    Args:
      gates: i, f, g, o.
      cell: c before the step.
      cell_cotangent: of c after the step.
      output_cotangent: of h after the step.
    """
    i, f, g, o = gates
    squashed = jnp.tanh(f * cell + i * g)
    dc = cell_cotangent + output_cotangent * o * (1 - squashed * squashed)
    sums = (
        dc * g * i * (1 - i),
        dc * cell * f * (1 - f),
        dc * i * (1 - g * g),
        output_cotangent * squashed * o * (1 - o),
    )
    return sums, dc * f
