"""Images that a generative model makes, in a grid."""

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from dlcore import plots
from dlcore.errors import UsageError
from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import register
from dlcore.tasks import Samples as MakesSamples


@dataclasses.dataclass(frozen=True)
class Samples(Evaluator):
    """A grid of samples.

    Attributes:
      count: samples in the grid.

    Raises:
      UsageError: there are none.
    """

    count: int = 100

    ability: ClassVar[type] = MakesSamples

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"count={self.count}: it must be at least 1")

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        """The figure "samples"."""
        del split
        images = draw(trained, key, self.count)
        return Findings(figures={"samples": plots.image_grid(images, value_range=(-1, 1))})


def draw(trained: Trained, key: jax.Array, count: int) -> np.ndarray:
    """Images `[count, height, width, channels]` in the range of the training images."""
    learner: Any = trained.learner
    return np.asarray(learner.sample(trained.variables, key, count))


register("samples", Samples)
