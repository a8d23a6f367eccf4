"""What all tasks share that compare a model's outputs with labels, example by example."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from dlcore.metrics import Metrics
from dlcore.tasks.base import Aux, Batch, Task


@dataclasses.dataclass(frozen=True)
class Supervised(Task):
    """A task whose loss is one of the metrics of the model's outputs."""

    @abc.abstractmethod
    def metrics(self, outputs: Any, batch: Batch) -> Metrics:
        """Sums over the batch's unmasked examples; "loss" is the one that is descended."""

    def init(self, rng: jax.Array, batch: Batch) -> dict[str, Any]:
        """Fresh variables of the model."""
        return dict(self.model.init(rng, batch["image"]))

    def loss(
        self, params: Any, model_state: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The summed loss, with every metric of the outputs in training mode."""
        outputs, model_state = self.model.apply(
            {"params": params, **model_state},
            batch["image"],
            train=True,
            rngs={"dropout": rng},
            mutable=list(model_state),
        )
        metrics: Any = self.metrics(outputs, batch)
        loss = metrics["loss"]
        return loss.total, Aux(count=loss.count, model_state=model_state, metrics=metrics)

    def evaluate(self, variables: Mapping[str, Any], batch: Batch) -> Metrics:
        """Sums of every metric of the outputs."""
        return self.metrics(self.model.apply(variables, batch["image"], train=False), batch)
