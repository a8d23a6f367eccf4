"""Run directories, opened again: what was trained, how it went, and the trained model itself.

run = Run("runs/lenet5_digits")
run.metrics["validation"]["accuracy"]
trained = run.trained()
scores = trained.learner.model.apply(trained.variables, images)
"""

import functools
import os
import pathlib
from typing import Any

import numpy as np

from dlcore import data
from dlcore.errors import UsageError
from dlcore.evaluators import Trained
from dlcore.train import data_record, report, workdir
from dlcore.train.recipe import Recipe
from dlcore.train.session import Session
from dlcore.train.settings import Settings
from dlcore.train.writers import columns, read_records


class Run:
    """A run directory; files are read, and programs built, when they are asked for.

    Args:
      directory: where a session has trained.
      settings: how, on this machine.
      data: where the data lie now, if they have moved since, or their name there.

    Attributes:
      directory: as a path.
      settings: as given.
      recipe: what was trained.

    Raises:
      UsageError: the directory holds no run or one of another version, or is not on this machine.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        settings: Settings | None = None,
        data: str = "",
    ) -> None:
        self.directory, self.settings = workdir.named(directory), settings or Settings()
        recipe = workdir.read_recipe(self.directory)
        self.recipe: Recipe = data_record.moved(recipe, data) if data else recipe

    @functools.cached_property
    def session(self) -> Session:
        """The training, built again: its data have to be there."""
        return Session(self.recipe, self.settings)

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: evaluations, and sums over some training steps."""
        return read_records(self._path("metrics.jsonl"))

    @functools.cached_property
    def metrics(self) -> dict[str, dict[str, np.ndarray]]:
        """Every number of `metrics.jsonl`, arrays by split and name: see `writers.columns`."""
        return columns(self.records)

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """How the training ended, with its scores.

        Raises:
          UsageError: the training is not complete, or the file is damaged.
        """
        return report.read_summary(self._path("summary.json"))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays that an evaluator has kept as `NAME.npz`, by their own names.

        Raises:
          UsageError: the training is not complete, or it has no such arrays.
        """
        with np.load(self._path(f"{name}.npz"), allow_pickle=False) as arrays:
            return dict(arrays)

    @property
    def dataset(self) -> data.Dataset:
        """What the run learned from.

        Raises:
          UsageError: the data are no longer those.
        """
        return self.session.dataset(self.directory)

    def trained(self, which: str = "best", phase: str = "") -> Trained:
        """The trained model: its learner, variables and data.

        Args:
          which: the checkpoint: "best", "newest" or the number of a step.
          phase: at the end of which it is wanted; of the last by default.

        Raises:
          UsageError: there is no such phase or checkpoint, or it is damaged.
        """
        return self.session.trained(self.directory, which, phase)

    def answering(self, which: str = "best") -> Trained:
        """The trained model for new inputs: its data need not be there, nor be what they were.

        What was recorded of them says how an input is prepared and what an answer means. Where that
        does not suffice, the data are opened, as they are by `trained`.

        Args:
          which: the checkpoint: "best", "newest" or the number of a step.

        Raises:
          UsageError: there is no such checkpoint, or it or the record is damaged.
        """
        session = Session(self.recipe, self.settings, recorded=self.directory)
        return session.trained(self.directory, which)

    def evaluate(self, split: str, which: str = "best") -> dict[str, Any]:
        """The "step" of a checkpoint and every metric of it on a split.

        Args:
          split: train, validation or test.
          which: the checkpoint: "best", "newest" or the number of a step.

        Raises:
          UsageError: there is no such split or checkpoint.
        """
        return self.session.evaluate(self.directory, split, which)

    def _path(self, name: str) -> pathlib.Path:
        path = self.directory / name
        if not path.is_file():
            raise UsageError(f"{self.directory} is not complete: it has no {name}")
        return path
