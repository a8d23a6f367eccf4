"""What evaluators find, called and kept."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dlcore import plots
from dlcore.errors import UsageError
from dlcore.evaluators import Evaluator, Findings, Trained

# Folded into the seed's key, so that what an evaluator draws has nothing of the first state's.
_EVALUATORS = 2**32 - 2


def collect(
    evaluators: Mapping[str, Evaluator],
    trained: Trained,
    split: str,
    seed: int,
    directory: pathlib.Path,
) -> dict[str, float]:
    """Calls evaluators, on every process, and keeps what they find.

    Args:
      evaluators: by name.
      trained: the model and its data.
      split: to evaluate on.
      seed: of the run.
      directory: where the first process writes.

    Returns:
      All scalars.

    Raises:
      UsageError: two evaluators give something of one kind and name.
    """
    key = jax.random.fold_in(jax.random.key(seed), _EVALUATORS)
    scalars: dict[str, float] = {}
    taken: set[tuple[str, str]] = set()
    for name, evaluator in evaluators.items():
        found = evaluator.evaluate(trained, split, key)
        own = {
            (kind.name, of) for kind in dataclasses.fields(found) for of in vars(found)[kind.name]
        }
        if twice := sorted(own & taken):
            raise UsageError(
                f"evaluator {name!r} gives {twice[0][1]!r} among its {twice[0][0]}, which another "
                "one gives, too"
            )
        taken |= own
        scalars |= found.scalars
        if jax.process_index() == 0:
            write(found, directory)
    return scalars


def beside(metrics: Mapping[str, Any], scalars: Mapping[str, float]) -> dict[str, Any]:
    """The metrics of a split, and what evaluators found on it.

    Raises:
      UsageError: an evaluator gives a scalar that has the name of a metric.
    """
    if twice := sorted(metrics.keys() & scalars.keys()):
        raise UsageError(f"an evaluator gives {twice[0]!r}, which is the name of a metric")
    return {**metrics, **scalars}


def write(findings: Findings, directory: pathlib.Path) -> None:
    """Writes figures, arrays and texts into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in findings.figures.items():
        (directory / "plots").mkdir(exist_ok=True)
        plots.save(figure, directory / "plots" / f"{name}.png")
    for name, arrays in findings.arrays.items():
        np.savez(directory / f"{name}.npz", allow_pickle=False, **arrays)
    for name, text in findings.texts.items():
        (directory / f"{name}.txt").write_text(text)
