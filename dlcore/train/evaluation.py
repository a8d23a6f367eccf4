"""Evaluation: every example of a split exactly once, on any number of devices."""

import collections
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from dlcore import data
from dlcore import metrics as metrics_lib
from dlcore.errors import UsageError
from dlcore.metrics import SumMetric
from dlcore.train.program import Program

_log = logging.getLogger(__name__)


def evaluate(
    program: Program,
    state: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    on_batch: Callable[[], None] = lambda: None,
    compiled: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Every metric over some batches.

    Args:
      program: lays out the devices.
      state: the placed state.
      batches: this process's shares; padded rows are masked.
      on_batch: called after each batch.
      compiled: `(state, batch, number) -> metrics`; the program's own evaluation by default.

    Returns:
      Values by metric name: floats, and NumPy arrays for what is no number.

    Raises:
      UsageError: there is no batch.
    """
    compiled = compiled or program.evaluate
    totals: Any = None
    pending: collections.deque[Any] = collections.deque()

    def settle() -> None:
        nonlocal totals
        found = {
            # Summed on the host in float64: a count of many examples stays exact.
            name: jax.tree.map(np.float64, metric) if isinstance(metric, SumMetric) else metric
            for name, metric in program.parallelism.to_host(pending.popleft()).items()
        }
        totals = found if totals is None else metrics_lib.merge(totals, found)
        on_batch()

    with data.prefetch(iter(batches), program.parallelism.place_batch) as placed:
        for number, batch in enumerate(placed):
            pending.append(compiled(state, batch, np.int32(number)))
            # One batch behind, so that the device always has the next one.
            if len(pending) > 1:
                settle()
    while pending:
        settle()
    if totals is None:
        raise UsageError("nothing to evaluate: the split has no examples")
    values = metrics_lib.compute(totals)
    if nan := values.get("nan_predictions"):
        _log.warning("%d predictions are NaN: each counts as a wrong one", nan)
    return values
