"""What evaluators find, called and kept."""

import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from dlcore import plots
from dlcore.errors import UsageError
from dlcore.evaluators import Evaluator, Findings, Trained


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
      UsageError: two evaluators give a scalar of one name.
    """
    scalars: dict[str, float] = {}
    for name, evaluator in evaluators.items():
        found = evaluator.evaluate(trained, split, jax.random.key(seed))
        if twice := sorted(found.scalars.keys() & scalars.keys()):
            raise UsageError(f"evaluator {name!r} gives {twice[0]!r}, which another one gives, too")
        scalars |= found.scalars
        if jax.process_index() == 0:
            write(found, directory)
    return scalars


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
