"""The metrics of a training over its epochs."""

import dataclasses

import jax

from dlcore import plots
from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import register


@dataclasses.dataclass(frozen=True)
class LearningCurves(Evaluator):
    """A figure of every metric that was recorded, a panel each."""

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        """The figure "learning_curves"; nothing where no step was recorded."""
        del split, key
        if not trained.metrics:
            return Findings()
        return Findings(figures={"learning_curves": plots.learning_curves(trained.metrics)})


register("learning_curves", LearningCurves)
