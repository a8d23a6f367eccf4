"""Recurrent networks: cells, and layers of them over whole sequences.

A cell is one step, `(carry, x) -> (carry, y)`, and has the parameters; a `Stack` takes it over
batches of sequences, in one layer or several, in one direction or both:

    stack = recurrent.Stack(recurrent.GRUCell(128), layers=2, bidirectional=True)
    outputs, carry = stack.apply(variables, inputs, lengths=lengths)

A sequence is padded to the time of its batch, and what stands behind its end changes no number.
`from_torch` converts the parameters of PyTorch's `nn.RNN`, `nn.GRU` and `nn.LSTM`.
"""

from dlcore.nn.recurrent.cells import Carry, Cell, GRUCell, LSTMCell, Params, RNNCell
from dlcore.nn.recurrent.convert import from_torch
from dlcore.nn.recurrent.stack import Stack

__all__ = ["Carry", "Cell", "GRUCell", "LSTMCell", "Params", "RNNCell", "Stack", "from_torch"]
