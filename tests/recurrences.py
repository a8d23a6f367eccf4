"""Recurrent cells as their equations say: float64 NumPy, one row and one step at a time."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dlcore.nn.recurrent import Cell, GRUCell, LSTMCell, RNNCell

# Every cell and form of it, of three units.
CELLS = {
    "rnn": RNNCell(3),
    "rnn_of_the_lectures": RNNCell(3, use_bias=False),
    "gru": GRUCell(3),
    "gru_of_the_lectures": GRUCell(3, use_bias=False),
    "gru_of_cho": GRUCell(3, reset_after=False),
    "lstm": LSTMCell(3, forget_bias=1.0),
    "lstm_of_the_lectures": LSTMCell(3, use_bias=False),
    "lstm_with_peepholes": LSTMCell(3, peepholes=True),
    "lstm_with_peepholes_alone": LSTMCell(3, use_bias=False, forget_bias=1.0, peepholes=True),
}


def draw(cell: Cell, batch: int, time: int, features: int, seed: int = 0) -> dict[str, Any]:
    """Parameters, inputs and a carry on the scale of 1, so that every gate is at work."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(
        cell.init, jax.random.key(0), cell.initial_carry(batch), np.zeros((batch, features))
    )
    shapes = {
        "params": shapes["params"],
        "inputs": np.zeros((batch, time, features)),
        "carry": jax.eval_shape(lambda: cell.initial_carry(batch)),
    }
    return jax.tree.map(lambda shape: random.normal(size=shape.shape), shapes)


def sequence(
    cell: Cell,
    params: dict[str, np.ndarray],
    inputs: np.ndarray,
    carry: Any,
    lengths: Any = None,
    reverse: bool = False,
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, Any]:
    """What `Cell.scan` gives."""
    batch, time, _ = inputs.shape
    step = _steps(cell, params)
    outputs = np.zeros((batch, time, cell.hidden))
    last = jax.tree.map(np.array, carry)
    for row in range(batch):
        length = time if lengths is None else int(lengths[row])
        kept = 1.0 if mask is None else mask[row]
        state = jax.tree.map(lambda array, row=row: array[row], last)
        for at in reversed(range(length)) if reverse else range(length):
            state, outputs[row, at] = step(state, inputs[row, at], kept)
        for array, new in zip(jax.tree.leaves(last), jax.tree.leaves(state), strict=True):
            array[row] = new
    return outputs, last


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def _steps(cell: Cell, params: dict[str, np.ndarray]) -> Callable[..., Any]:
    """`(carry, x, mask) -> (carry, y)` of one row."""

    def of_gate(name: str, gate: int) -> Any:
        if name not in params:
            return 0.0
        return params[name][..., gate * cell.hidden : (gate + 1) * cell.hidden]

    def of_input(x: np.ndarray, gate: int) -> np.ndarray:
        return x @ of_gate("input_kernel", gate) + of_gate("bias", gate)

    def of_state(h: np.ndarray, gate: int) -> np.ndarray:
        return h @ of_gate("recurrent_kernel", gate)

    def rnn(h: Any, x: np.ndarray, mask: Any) -> Any:
        h = np.tanh(of_input(x, 0) + of_state(mask * h, 0))
        return h, h

    def gru(h: Any, x: np.ndarray, mask: Any) -> Any:
        assert isinstance(cell, GRUCell)
        r, z = (_sigmoid(of_input(x, gate) + of_state(mask * h, gate)) for gate in (0, 1))
        if cell.reset_after:
            n = np.tanh(of_input(x, 2) + r * (of_state(mask * h, 2) + of_gate("recurrent_bias", 0)))
        else:
            n = np.tanh(of_input(x, 2) + of_state(mask * (r * h), 2))
        h = z * h + (1 - z) * n
        return h, h

    def lstm(carry: Any, x: np.ndarray, mask: Any) -> Any:
        assert isinstance(cell, LSTMCell)
        c, h = carry
        i, f, g, o = (of_input(x, gate) + of_state(mask * h, gate) for gate in range(4))
        p = params.get("peepholes", np.zeros((3, 1)))
        c = _sigmoid(f + cell.forget_bias + p[1] * c) * c + _sigmoid(i + p[0] * c) * np.tanh(g)
        h = _sigmoid(o + p[2] * c) * np.tanh(c)
        return (c, h), h

    return {RNNCell: rnn, GRUCell: gru, LSTMCell: lstm}[type(cell)]
