"""What a training carries from one step to the next: everything that a checkpoint holds."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from dlcore.metrics import Metrics
from dlcore.optim import rate
from dlcore.parallel import CARRY

# The collection of what normalisation knows of the batches.
STATISTICS = "batch_stats"


class TrainState(flax.struct.PyTreeNode):
    """The state of a training, a pytree of arrays only.

    Attributes:
      step: number of updates attempted so far, int32 scalar; with the seed it fixes the next batch.
      params: the trained parameters.
      model_state: the model's other collections (`batch_stats`, `carry`).
      opt_state: Optax's state.
      rng: data of the run's random key, uint32; a step folds its number into it.
      ema_params: the exponential moving average of the parameters, or None where none is kept.
      metrics: sums since the last record in `metrics.jsonl`. They are part of the state so that a
        run resumed between two records writes the same record.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    rng: jax.Array
    ema_params: Any
    metrics: Metrics

    def variables(self) -> dict[str, Any]:
        """The variables to evaluate: averaged parameters where an average is kept."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, **self.model_state}

    def restarted_from(self, earlier: "TrainState") -> "TrainState":
        """This training, gone back to what it had learnt at an earlier step.

        Its place in the data, its random key and its learning rate stay; of the optimizer all else
        goes back: a velocity belongs to the parameters that it moves.
        """
        carried = {name: self.model_state[name] for name in (CARRY,) if name in self.model_state}
        return earlier.replace(
            step=self.step,
            model_state={**earlier.model_state, **carried},
            opt_state=rate.with_factor_of(earlier.opt_state, self.opt_state),
            rng=self.rng,
            metrics=self.metrics,
        )


def zeros_like(metrics: Metrics) -> Metrics:
    """Metrics of no examples at all, given metrics or their shapes."""
    return jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), metrics)
