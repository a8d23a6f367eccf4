"""What a notebook asks of trained runs, besides what `dlcore.train.Run` itself gives."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from dlcore.errors import UsageError
from dlcore.train import workdir
from dlcore.train.run import Run


def by_name(directories: Iterable[str | os.PathLike[str]]) -> dict[str, Run]:
    """Opens runs that are to be compared, each by the last part of its directory, in their order.

    Raises:
      UsageError: there is none, two have the same name, or a directory holds no run.
    """
    runs: dict[str, Run] = {}
    for directory in map(workdir.named, directories):
        name = directory.resolve().name
        if name in runs:
            raise UsageError(
                f"{runs[name].directory} and {directory} are both named {name}: the last parts of "
                "the directories must differ"
            )
        runs[name] = Run(directory)
    if not runs:
        raise UsageError("there is no run to compare: at least one directory is needed")
    return runs


@dataclasses.dataclass(frozen=True)
class Errors:
    """Test examples that were classified wrongly, the worst first.

    Attributes:
      index: their positions in the test split, int `[count]`.
      image: as the dataset stores them, `[count, ...]`.
      label: the true class, int `[count]`.
      prediction: the class they were taken for, int `[count]`.
      probability: what the model gave that class, float32 `[count]`.
    """

    index: np.ndarray
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray

    def captions(self, class_names: tuple[str, ...]) -> list[str]:
        """For each its true class, the answer, and how sure it was: "9 as 4 (87%)"."""
        columns = zip(self.label, self.prediction, self.probability, strict=True)
        return [
            f"{class_names[label]} as {class_names[answer]} ({probability:.0%})"
            for label, answer, probability in columns
        ]


def hardest_errors(run: Run, count: int) -> Errors:
    """The wrong answers on the test split whose true class got the least probability.

    Args:
      run: complete, of a classifier.
      count: how many at the most.

    Raises:
      UsageError: the run is not complete, or its task does not classify.
    """
    outputs = run.arrays("test_outputs")
    label, prediction = outputs["label"], outputs["prediction"]
    wrong = np.flatnonzero(label != prediction)
    of_truth = outputs["probability"][wrong, label[wrong]]
    index = wrong[np.argsort(of_truth, kind="stable")[:count]]
    split: Any = run.dataset.splits["test"]
    return Errors(
        index=index,
        image=split.fetch(index)["image"],
        label=label[index],
        prediction=prediction[index],
        probability=outputs["probability"][index, prediction[index]],
    )
