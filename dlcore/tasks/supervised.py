"""What all tasks share that compare a model's outputs with labels, example by example."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from dlcore.metrics import Metrics, NanPredictions
from dlcore.tasks.descent import Aux, Descent
from dlcore.tasks.learner import Batch, Variables, without_masked


@dataclasses.dataclass(frozen=True)
class Supervised(Descent):
    """A task whose loss is one of the metrics of the model's outputs.

    A subclass gives `metrics`, and where the model sees anything but a batch's "image",
    `describe_inputs`.
    """

    model_inputs: ClassVar[int | None] = 1

    @abc.abstractmethod
    def metrics(self, outputs: Any, batch: Batch) -> Metrics:
        """Sums over the batch's unmasked examples; "loss" is the one that is descended."""

    def loss(
        self, params: Any, model_state: Mapping[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The summed loss, with every metric of the outputs in training mode."""
        batch = without_masked(batch)
        applied = self.apply(params, model_state, *self.describe_inputs(batch), key=key)
        metrics: Any = self.metrics(applied.outputs, batch)
        loss = metrics["loss"]
        return loss.total, Aux(loss.count, applied.model_state, metrics, applied.sown)

    def outputs(self, variables: Variables, batch: Batch) -> Any:
        """The model's outputs in evaluation mode."""
        return self.model.apply(variables, *self.describe_inputs(batch), train=False)

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        """Every metric of the outputs in evaluation mode, and how many of these are NaN."""
        del key
        outputs = self.outputs(variables, batch)
        nan = NanPredictions.of(outputs, batch["mask"])
        return {**self.metrics(outputs, batch), "nan_predictions": nan}
