"""Parameters of PyTorch's `nn.RNN`, `nn.GRU` and `nn.LSTM` for a `Stack` of the same cells."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


def from_torch(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
    """A stack's parameters from those of the PyTorch layers of the same kind.

    PyTorch has its gates below each other, transposed, in the same order (r, z, n; i, f, g, o).

    Args:
      state_dict: of an `nn.RNN` of tanh, an `nn.GRU` or an `nn.LSTM`, as arrays: of any number of
        layers, in one direction or both, with biases or without.
    """
    suffixes = [
        name.removeprefix("weight_ih_l") for name in state_dict if name.startswith("weight_ih_l")
    ]
    return {f"layer{suffix}": _cell(state_dict, f"l{suffix}") for suffix in suffixes}


def _cell(state_dict: Mapping[str, Any], suffix: str) -> dict[str, Array]:
    kernels = {
        "input_kernel": jnp.asarray(state_dict[f"weight_ih_{suffix}"]).T,
        "recurrent_kernel": jnp.asarray(state_dict[f"weight_hh_{suffix}"]).T,
    }
    if f"bias_ih_{suffix}" not in state_dict:
        return kernels
    bias, recurrent_bias = (
        jnp.asarray(state_dict[f"bias_{side}_{suffix}"]) for side in ("ih", "hh")
    )
    hidden, width = kernels["recurrent_kernel"].shape
    is_gru = width == 3 * hidden
    if not is_gru:
        return {**kernels, "bias": bias + recurrent_bias}
    # In the candidate's sum the two stay apart: its reset is on the state's side alone.
    r_and_z = slice(0, 2 * hidden)
    return {
        **kernels,
        "bias": bias.at[r_and_z].add(recurrent_bias[r_and_z]),
        "recurrent_bias": recurrent_bias[2 * hidden :],
    }
