"""Sequences of several lengths, padded to the time of their batch: what is real of them."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def real(lengths: Int[Array, " batch"], time: int) -> Bool[Array, "batch {time}"]:
    """Whether each step of each row is before the row's end.

    Args:
      lengths: steps of each row.
      time: steps of the batch.
    """
    return jnp.arange(time, dtype=lengths.dtype) < lengths[:, None]


def within(inputs: Array, lengths: Int[Array, " batch"] | None) -> Array:
    """The inputs `[batch, time, ...]`, zero behind each row's end; there they may hold anything.

    Args:
      inputs: at every step.
      lengths: steps of each row; all by default.
    """
    if lengths is None:
        return inputs
    steps = real(lengths, inputs.shape[1])
    return jnp.where(steps.reshape(*steps.shape, *[1] * (inputs.ndim - 2)), inputs, 0)
