"""Parameters to and from other libraries' layouts.

Flax's `OptimizedLSTMCell` has a matrix a gate for the inputs and one with a bias for the state;
PyTorch's `nn.LSTM` has the gates below each other, transposed, and two biases, which add up.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from kernels.lstm.types import Params

_GATES = "ifgo"
_TORCH = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def from_flax(params: Mapping[str, Any]) -> Params:
    """The parameters of a Flax `OptimizedLSTMCell`: its `params`, with "ii", "if", ..., "ho"."""
    return Params(
        jnp.concatenate([params[f"i{gate}"]["kernel"] for gate in _GATES], axis=1),
        jnp.concatenate([params[f"h{gate}"]["kernel"] for gate in _GATES], axis=1),
        jnp.concatenate([params[f"h{gate}"]["bias"] for gate in _GATES]),
    )


def to_flax(params: Params) -> dict[str, dict[str, Array]]:
    """The inverse of `from_flax`."""
    inputs, recurrent, bias = (jnp.split(array, 4, axis=-1) for array in params)
    flax = {}
    for number, gate in enumerate(_GATES):
        flax[f"i{gate}"] = {"kernel": inputs[number]}
        flax[f"h{gate}"] = {"kernel": recurrent[number], "bias": bias[number]}
    return flax


def from_torch(params: Mapping[str, Any], suffix: str = "l0") -> Params:
    """The parameters of one layer and direction of a PyTorch `nn.LSTM`.

    Args:
      params: its `state_dict`, as arrays.
      suffix: "l0", "l1", ...; with "_reverse" for the other direction.
    """
    weights = {name: jnp.asarray(params[f"{name}_{suffix}"]) for name in _TORCH}
    return Params(
        weights["weight_ih"].T, weights["weight_hh"].T, weights["bias_ih"] + weights["bias_hh"]
    )


def to_torch(params: Params, suffix: str = "l0") -> dict[str, Array]:
    """The inverse of `from_torch`; the second bias is zero."""
    arrays = (
        params.input_kernel.T,
        params.recurrent_kernel.T,
        params.bias,
        jnp.zeros_like(params.bias),
    )
    return {f"{name}_{suffix}": array for name, array in zip(_TORCH, arrays, strict=True)}
