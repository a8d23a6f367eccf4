"""Statistics of batch normalization over the whole training set (Ioffe and Szegedy, 2015).

Their algorithm 2 freezes a trained network and gives each normalization, for use in the test, the
mean over training batches of the batch's mean and of its unbiased variance. Running averages, which
have seen the batches of changing parameters, only come near that.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import data
from dlcore.nn.normalization import STATISTICS
from dlcore.tasks import TrainState
from dlcore.train.program import Program


def recompute(
    program: Program,
    state: TrainState,
    batches: data.TrainBatches,
    on_batch: Callable[[], None] = lambda: None,
) -> TrainState:
    """The state with the statistics of its parameters over one epoch's batches.

    Args:
      program: built with `recompute_statistics`.
      state: placed.
      batches: this process's shares of the training batches.
      on_batch: called after each batch.
    """
    assert program.moments
    total: Any = None
    with data.prefetch(batches.start(0), program.parallelism.place_batch) as placed:
        for number, batch in zip(range(batches.steps_per_epoch), placed, strict=False):
            moments = program.moments(state, batch, np.int32(number))
            # The host waits for the batch before, so that the devices hold only a few.
            jax.block_until_ready(total)
            total = moments if total is None else jax.tree.map(jnp.add, total, moments)
            on_batch()
    statistics = jax.tree.map(
        lambda sum_, old: jax.device_put(sum_ / batches.steps_per_epoch, old.sharding),
        total,
        state.variables()[STATISTICS],
    )
    if state.average is not None:
        return state.replace(average={**state.average, STATISTICS: statistics})
    return state.replace(model_state={**state.model_state, STATISTICS: statistics})
