"""The arithmetic of one step, shared by every implementation, inside and outside of kernels.

Everything is elementwise, in the dtype of the sums: the matrix products are the implementations'
own.
"""

from collections.abc import Callable
from typing import NamedTuple

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


class Slopes(NamedTuple):
    """The derivatives of a step: they wait for no other step.

    Attributes:
      sums: of c after the step by the sums of i, f and g, and of h by the sum of o.
      cell: of c after the step by c before it.
      output: of h by c after the step.
    """

    sums: Four
    cell: jax.Array
    output: jax.Array


def slopes(gates: Four, cell: jax.Array) -> Slopes:
    """The derivatives of a step, from its gates and c before it."""
    i, f, g, o = gates
    squashed = jnp.tanh(f * cell + i * g)
    return Slopes(
        sums=(g * i * (1 - i), cell * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)),
        cell=f,
        output=o * (1 - squashed * squashed),
    )


def pull_back(
    slopes: Slopes, cell_cotangent: jax.Array, output_cotangent: jax.Array
) -> tuple[Four, jax.Array]:
    """The cotangents of the gates' sums, and of c before the step.

    Args:
      slopes: the step's.
      cell_cotangent: of c after the step.
      output_cotangent: of h after the step.
    """
    i, f, g, o = slopes.sums
    dc = cell_cotangent + output_cotangent * slopes.output
    return (dc * i, dc * f, dc * g, output_cotangent * o), dc * slopes.cell


def retreat(
    gates: Four, cell: jax.Array, cell_cotangent: jax.Array, output_cotangent: jax.Array
) -> tuple[Four, jax.Array]:
    """`pull_back` from a step's gates and c before it."""
    return pull_back(slopes(gates, cell), cell_cotangent, output_cotangent)
