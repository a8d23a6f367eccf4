"""Images that a generative model makes, in a grid."""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import numpy as np

from dlcore import plots
from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import register
from dlcore.ranges import Range
from dlcore.tasks import Samples as MakesSamples


@dataclasses.dataclass(frozen=True)
class Samples(Evaluator):
    """A grid of samples.

    Attributes:
      count: samples in the grid.

    Raises:
      UsageError: there are none.
    """

    count: Annotated[int, Range(least=1, most=10**4)] = 100

    ability: ClassVar[type] = MakesSamples

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
