"""Long short-term memory over whole sequences, forward and backward, with Pallas kernels.

`lstm` is the operation, `lstm_cell` one step of it; `convert` exchanges parameters with Flax and
PyTorch. README.md beside this file explains the design.
"""

from kernels.lstm.operation import explain, lstm, lstm_cell
from kernels.lstm.types import Params, State

__all__ = ["Params", "State", "explain", "lstm", "lstm_cell"]
