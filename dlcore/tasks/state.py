"""What a training carries from one step to the next: everything that a checkpoint holds."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from dlcore.metrics import Metrics
from dlcore.nn.normalization import STATISTICS
from dlcore.optim import rate
from dlcore.parallel import Kind, of_kind


class TrainState(flax.struct.PyTreeNode):
    """The state of a training, a pytree of arrays only.

    Attributes:
      step: number of updates attempted so far, int32 scalar; with the seed it fixes the next batch.
      params: the trained parameters.
      model_state: the other collections of the model and of the learner, by name. What each belongs
        to, `Learner.state_kinds` says.
      opt_state: Optax's state.
      rng: data of the run's random key, uint32; a step folds its number into it.
      average: exponential moving averages, by collection, of the parameters and, as those of other
        parameters would not fit them, of batch normalization's statistics; None where none is kept.
      metrics: sums since the last record in `metrics.jsonl`. They are part of the state so that a
        run resumed between two records writes the same record.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    rng: jax.Array
    average: Any
    metrics: Metrics

    def variables(self) -> dict[str, Any]:
        """The variables to evaluate: averaged ones where an average is kept."""
        return {"params": self.params, **self.model_state, **(self.average or {})}

    def averaged(self) -> dict[str, Any]:
        """The collections that an average is kept of, as they are now."""
        names = self.model_state.keys() & {STATISTICS}
        return {"params": self.params, **{name: self.model_state[name] for name in names}}

    def with_average(self) -> "TrainState":
        """This state, its averages begun anew."""
        return self.replace(average=jax.tree.map(jnp.copy, self.averaged()))

    def restarted_from(self, earlier: "TrainState", kinds: Mapping[str, Kind]) -> "TrainState":
        """This training, gone back to what it had learned at an earlier step.

        Its place in the data, its random key, its learning rate and the state of its examples stay;
        of the optimizer all else goes back: a velocity belongs to the parameters that it moves.

        Args:
          earlier: the state to go back to.
          kinds: what the collections belong to.
        """
        carried = of_kind(self.model_state, kinds, "examples")
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
