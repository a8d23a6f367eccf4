"""The types that pass between the LSTM's public function and its implementations.

The cell is that of Hochreiter and Schmidhuber (1997) with the forget gate of Gers, Schmidhuber and
Cummins (2000), without peepholes:

    i, f, o = sigmoid(x W + h R + b),  g = tanh(x W + h R + b)
    c' = f c + i g
    h' = o tanh(c')

The gates lie side by side in the last axis of W, R and b, in the order i, f, g, o.
"""

from typing import NamedTuple, Protocol

from jaxtyping import Array, Float, Int


class Params(NamedTuple):
    """The parameters of one layer; `gates` is 4 `hidden`.

    Attributes:
      input_kernel: W, `[features, gates]`.
      recurrent_kernel: R, `[hidden, gates]`.
      bias: b, `[gates]`.
    """

    input_kernel: Float[Array, "features gates"]
    recurrent_kernel: Float[Array, "hidden gates"]
    bias: Float[Array, " gates"]


class State(NamedTuple):
    """What a layer carries from step to step.

    Attributes:
      cell: c, float32 whatever the dtype of the rest.
      output: h, of the inputs' dtype.
    """

    cell: Float[Array, "batch hidden"]
    output: Float[Array, "batch hidden"]


class Trace(NamedTuple):
    """What a recurrence leaves of its steps, time first.

    Attributes:
      outputs: h after each step, of the inputs' dtype; a row that takes no part keeps its last.
      cells: c before each step, float32; None where no gradient will be asked for.
      gates: i, f, g, o after their nonlinearity, of the inputs' dtype; None where they will be
        recomputed, or never needed.
    """

    outputs: Float[Array, "time batch hidden"]
    cells: Float[Array, "time batch hidden"] | None
    gates: Float[Array, "time batch gates"] | None


class Recurrence(Protocol):
    """The steps that depend on each other: what an implementation gives.

    Steps are taken in the order of time or, with `reverse`, against it. Row b takes part in the
    steps t < `lengths[b]` and keeps its state in the others; without lengths every row takes part
    in every step.
    """

    def forward(
        self,
        projected: Float[Array, "time batch gates"],
        recurrent_kernel: Float[Array, "hidden gates"],
        first: State,
        lengths: Int[Array, " batch"] | None,
        *,
        reverse: bool,
        keep: str,
    ) -> tuple[Trace, State]:
        """All steps from x W + b: what they leave, and the state after the last.

        `keep` is "outputs", "cells" (and outputs) or "gates" (and both).
        """

    def backward(
        self,
        recurrent_kernel: Float[Array, "hidden gates"],
        gates: Float[Array, "time batch gates"],
        cells: Float[Array, "time batch hidden"],
        lengths: Int[Array, " batch"] | None,
        output_cotangents: Float[Array, "time batch hidden"],
        last_cotangent: State,
        *,
        reverse: bool,
    ) -> tuple[Float[Array, "time batch gates"], State]:
        """The cotangents of x W + b at every step, and of the state before the first."""
