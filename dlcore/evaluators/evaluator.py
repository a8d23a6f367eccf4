"""What judges or shows a trained model: an evaluator, which makes findings of it.

Metrics are counted while a split passes by. An evaluator is for what needs more: a score that is no
sum, a figure, samples, a comparison with another trained network. It is called at a cadence of its
own, and once for the best checkpoint at the end, on every process of a run; it does the same on any
number of devices.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from dlcore import data, ranges
from dlcore.ranges import Natural
from dlcore.tasks import Learner, Variables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Findings:
    """What an evaluator found, each by name.

    Attributes:
      scalars: scores, recorded beside the metrics of the split.
      figures: Matplotlib figures, kept as `plots/NAME.png`.
      arrays: NumPy arrays by name, kept as `NAME.npz`.
      texts: kept as `NAME.txt`.
    """

    scalars: Mapping[str, float] = dataclasses.field(default_factory=dict)
    figures: Mapping[str, "Figure"] = dataclasses.field(default_factory=dict)
    arrays: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)


# (function of (variables, batch, *inputs), split, *inputs) -> what it gave for every example of the
# split, in order
Rows = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model with its data, as an evaluator sees it.

    Attributes:
      learner: says what the model can do (`dlcore.tasks.protocols`); its `model` is the network.
      variables: trained, whole on every process.
      dataset: what it learned from.
      batch_size: of the recipe.
      rows: `rows(function, split, *inputs)` is what `function(variables, batch, *inputs)` gives for
        every example of a split, NumPy arrays `[examples, ...]` in order, computed on all devices;
        compiled once for a function, which therefore has to be the same at every call: a module's,
        or a learner's method. The batch is a prepared one, as the model sees it. The inputs are
        trees of arrays, the same for all batches, but for random keys: each batch gets its own.
      metrics: what was recorded so far, arrays `[records]` by split and name.
      needed: the trained runs that the recipe needed, by name.
    """

    learner: Learner
    variables: Variables
    dataset: data.Dataset
    batch_size: int
    rows: Rows
    metrics: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    needed: Mapping[str, "Trained"] = dataclasses.field(default_factory=dict)

    def batches(self, split: str) -> Iterator[Mapping[str, np.ndarray]]:
        """Every example of a split once, in order, as host batches; padded rows have mask 0."""
        return self.dataset.evaluation_batches(split, self.batch_size)


@dataclasses.dataclass(frozen=True)
class Evaluator(abc.ABC):
    """A way to judge or to show a trained model.

    Attributes:
      every: evaluations on the validation split from one call to the next; 0 for the end only.

    Raises:
      UsageError: an option is out of its range.
    """

    every: Natural = 0

    # What the learner has to be able to do, a protocol of `dlcore.tasks.protocols`.
    ability: ClassVar[type] = Learner
    # The features that the dataset has to have besides those that the task needs, or as which of
    # their kinds it has to have these.
    needs: ClassVar[data.Needs] = {}
    # The runs that the recipe has to need, by name.
    needed: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        ranges.check(self)

    def check_needed(self, role: str, learner: Learner, dataset: data.Dataset) -> None:
        """Raises UsageError where the run that is needed under that name will not serve."""
        del role, learner, dataset

    @abc.abstractmethod
    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        """The findings on a split.

        Args:
          trained: the model and its data.
          split: "validation" while the training goes on; "test", where there is one, at the end.
          key: of everything random, the same at every call.
        """
