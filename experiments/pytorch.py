"""A Python of its own that has PyTorch, and the twins of recipes that take steps in there.

It stays alive and idle between two rounds, so that both sides can be timed in turn.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dlcore import models, optim
from dlcore.errors import UsageError
from dlcore.train import Recipe
from dlcore.train.preparation import Prepared
from kernels import timing

WORKER = ("-m", "experiments.peers.worker")
_ROOT = pathlib.Path(__file__).parents[1]
# What a step depends on. A twin refuses what it does not follow, unless it is at its default.
_FIELDS = (
    *("optimizer", "learning_rate", "schedule", "warmup_steps", "groups", "prune_fraction"),
    *("accumulate", "ema_decay"),
    *(field.name for field in dataclasses.fields(optim.Options)),
)


class PyTorch:
    """The other Python; to be closed.

    Args:
      python: its name.
      threads: of the CPU that it may use.

    Raises:
      UsageError: it has no PyTorch.
    """

    def __init__(self, python: str, threads: int) -> None:
        if reason := timing.torch_refusal(python):
            raise UsageError(f"--torch: {reason}")
        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        words = json.dumps({"device": device, "threads": threads})
        self._process = subprocess.Popen(
            [python, *WORKER, words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )

    def __enter__(self) -> "PyTorch":
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.communicate()

    def make(
        self,
        name: str,
        prepared: Prepared,
        batches: pathlib.Path,
        compiled: bool = False,
        weights: pathlib.Path | str = "",
    ) -> int:
        """Makes the twin of a training's model and step; how many parameters it learns.

        Args:
          name: what `run` will call it.
          prepared: the training.
          batches: a file that `write_batches` has written.
          compiled: whether by `torch.compile`.
          weights: a .npz file of its parameters; its own start by default.

        Raises:
          UsageError: there is no such twin.
        """
        recipe = prepared.recipe
        defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
        answer = self._ask(
            "make",
            name=name,
            model=recipe.model,
            task=recipe.task,
            model_options=_changed(recipe.model_options, models.defaults(recipe.model)),
            training=_changed({field: getattr(recipe, field) for field in _FIELDS}, defaults),
            num_steps=prepared.plan.num_steps,
            compiled=compiled,
            batches=str(batches),
            weights=str(weights),
        )
        return answer["parameters"]

    def run(self, name: str, steps: int) -> dict[str, float]:
        """Takes steps with a twin: the "seconds" of one, and the "loss" of the last."""
        return self._ask("run", name=name, steps=steps)

    def seconds(self, name: str, steps: int) -> float:
        """Takes steps with a twin; the seconds of one."""
        return self.run(name, steps)["seconds"]

    def _ask(self, do: str, **words: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        # A process that has ended gives no answer.
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": do, **words}), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline() or '{"failed": "it has ended"}')
        if "refused" in answer:
            raise UsageError(answer["refused"])
        if "failed" in answer:
            raise RuntimeError(f"PyTorch: {answer['failed']}")
        return answer


def write_batches(path: pathlib.Path, batches: Sequence[Mapping[str, Any]]) -> None:
    """Writes prepared batches to a .npz file."""
    arrays: dict[str, Any] = {
        f"{number}/{name}": np.asarray(array)
        for number, batch in enumerate(batches)
        for name, array in batch.items()
    }
    np.savez(path, **arrays)


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != defaults[name]}
