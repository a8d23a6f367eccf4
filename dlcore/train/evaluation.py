"""Evaluation: every example of a split exactly once, on any number of devices."""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from dlcore import data
from dlcore import metrics as metrics_lib
from dlcore.errors import UsageError
from dlcore.train.program import Program


def evaluate(
    program: Program,
    state: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Every metric of the task over some batches.

    Args:
      program: gives the compiled evaluation.
      state: the placed state.
      batches: this process's shares; padded rows are masked.
      on_batch: called after each batch.

    Returns:
      Values by metric name: floats, and NumPy arrays for matrices.

    Raises:
      UsageError: there is no batch.
    """
    totals: Any = None
    pending: collections.deque[Any] = collections.deque()

    def settle() -> None:
        nonlocal totals
        # Summed on the host in float64: a count of many examples stays exact.
        sums = jax.tree.map(np.float64, program.parallelism.to_host(pending.popleft()))
        totals = sums if totals is None else jax.tree.map(np.add, totals, sums)
        on_batch()

    with data.prefetch(iter(batches), program.parallelism.place_batch) as placed:
        for batch in placed:
            pending.append(program.evaluate(state, batch))
            # One batch behind, so that the device always has the next one.
            if len(pending) > 1:
                settle()
    while pending:
        settle()
    if totals is None:
        raise UsageError("nothing to evaluate: the split has no examples")
    return metrics_lib.compute(totals)
