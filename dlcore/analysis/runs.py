"""Run directories, read back: what was trained, how it went, and the trained model itself.

run = Run("runs/lenet5_digits")
task, variables = run.load()
scores = task.model.apply(variables, images)
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlcore import data, models, tasks
from dlcore.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Errors:
    """Test examples that were classified wrongly, the worst first.

    Attributes:
      index: their places in the test split, int `[count]`.
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


class Run:
    """A run directory of `experiments.train`; files are read when they are asked for.

    Args:
      directory: what was given as `--workdir`.

    Attributes:
      directory: as a path.
      recipe: the resolved recipe, by field name.

    Raises:
      UsageError: the directory holds no run.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = pathlib.Path(directory)
        self.recipe: dict[str, Any] = self._json("recipe.json")

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: evaluations, and sums over some training steps."""
        return [json.loads(line) for line in self._path("metrics.jsonl").read_text().splitlines()]

    @functools.cached_property
    def metrics(self) -> dict[str, dict[str, np.ndarray]]:
        """Every column of `metrics.jsonl`, float64 arrays by split and name.

        Rows of a split align: `metrics["validation"]["accuracy"]` goes with
        `metrics["validation"]["step"]` and `["epoch"]`. What was not finite is NaN.
        """
        splits = dict.fromkeys(record["split"] for record in self.records)
        return {split: self._columns(split) for split in splits}

    def _columns(self, split: str) -> dict[str, np.ndarray]:
        records = [record for record in self.records if record["split"] == split]
        names = dict.fromkeys(name for record in records for name in record if name != "split")
        return {
            name: np.asarray(
                [math.nan if record.get(name) is None else record[name] for record in records]
            )
            for name in names
        }

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """How the training ended, with its scores.

        Raises:
          UsageError: the training is not complete.
        """
        return self._json("summary.json")

    @functools.cached_property
    def test_outputs(self) -> dict[str, np.ndarray]:
        """A classifier's answers on the test split, in its order.

        "label" and "prediction" int `[examples]`, "probability" float32 `[examples, classes]`, and
        "confusion" int `[classes, classes]` (row: label, column: prediction).

        Raises:
          UsageError: the training is not complete, or its task does not classify.
        """
        with np.load(self._path("test_outputs.npz"), allow_pickle=False) as arrays:
            return dict(arrays)

    def dataset(self, data_dir: str | os.PathLike[str] | None = None) -> data.Dataset:
        """The data that the run learnt from.

        Args:
          data_dir: of prepared datasets; the environment's DLCORE_DATA_DIR by default.

        Raises:
          UsageError: the data is not there.
        """
        return data.load(self.recipe["data"], data_dir, self.recipe["data_options"])

    def load(self) -> tuple[tasks.Task, Mapping[str, Any]]:
        """The task (its `model` is the Linen module) and the variables of the best checkpoint.

        Raises:
          UsageError: there is no checkpoint, or it is damaged.
        """
        # Orbax takes a second to import, and curves and outputs do without it.
        from dlcore.train.checkpoint import Checkpoints

        model = models.create(self.recipe["model"], **_options(self.recipe["model_options"]))
        task = tasks.create(self.recipe["task"], model, **_options(self.recipe["task_options"]))
        checkpoints = Checkpoints(
            self.directory / "checkpoints", mode=task.watched_mode, read_only=True
        )
        try:
            return task, checkpoints.restore_variables(checkpoints.find("best"))
        finally:
            checkpoints.close()

    def hardest_errors(self, count: int, data_dir: str | os.PathLike[str] | None = None) -> Errors:
        """The wrong answers on the test split whose true class got the least probability.

        Args:
          count: how many at the most.
          data_dir: see `dataset`.
        """
        outputs = self.test_outputs
        label, prediction = outputs["label"], outputs["prediction"]
        wrong = np.flatnonzero(label != prediction)
        of_truth = outputs["probability"][wrong, label[wrong]]
        index = wrong[np.argsort(of_truth, kind="stable")[:count]]
        split: Any = self.dataset(data_dir).splits["test"]
        examples = split.fetch(index)
        return Errors(
            index=index,
            image=examples["image"] if "image" in examples else examples["row"],
            label=label[index],
            prediction=prediction[index],
            probability=outputs["probability"][index, prediction[index]],
        )

    def _path(self, name: str) -> pathlib.Path:
        path = self.directory / name
        if not path.is_file():
            what = "is no run directory" if name == "recipe.json" else "is not complete"
            raise UsageError(f"{self.directory} {what}: it has no {name}")
        return path

    def _json(self, name: str) -> dict[str, Any]:
        path = self._path(name)
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise UsageError(f"{path} is damaged: it is not JSON ({error})") from error


def _options(read: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they were before JSON made lists of their tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in read.items()
    }
