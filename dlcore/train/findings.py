"""What evaluators find, called and kept."""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from dlcore import plots
from dlcore.errors import UsageError
from dlcore.evaluators import Evaluator, Findings, Trained

_log = logging.getLogger(__name__)

# Folded into the seed's key, so that what an evaluator draws has nothing of the first state's.
_EVALUATORS = 2**32 - 2


def collect(
    evaluators: Mapping[str, Evaluator], trained: Trained, split: str, seed: int
) -> Findings:
    """What evaluators find together, on every process.

    One that fails finds nothing, and a line says so: no training is lost for it.

    Args:
      evaluators: by name.
      trained: the model and its data.
      split: to evaluate on.
      seed: of the run.

    Raises:
      UsageError: two evaluators give something of one kind and name.
    """
    key = jax.random.fold_in(jax.random.key(seed), _EVALUATORS)
    together: dict[str, dict[str, Any]] = {kind.name: {} for kind in dataclasses.fields(Findings)}
    for name, evaluator in evaluators.items():
        found = Findings()
        with _borne(f"evaluator {name!r}"):
            found = evaluator.evaluate(trained, split, key)
        for kind, all_of_kind in together.items():
            own = getattr(found, kind)
            if twice := sorted(own.keys() & all_of_kind.keys()):
                raise UsageError(
                    f"evaluator {name!r} gives {twice[0]!r} among its {kind}, which another one "
                    "gives, too"
                )
            all_of_kind |= own
    return Findings(**together)


def beside(metrics: Mapping[str, Any], scalars: Mapping[str, float]) -> dict[str, Any]:
    """The metrics of a split, and what evaluators found on it.

    Raises:
      UsageError: an evaluator gives a scalar that has the name of a metric.
    """
    if twice := sorted(metrics.keys() & scalars.keys()):
        raise UsageError(f"an evaluator gives {twice[0]!r}, which is the name of a metric")
    return {**metrics, **scalars}


def write(findings: Findings, directory: pathlib.Path) -> None:
    """Writes figures, arrays and texts into a directory, on the first process.

    What cannot be drawn or written is left out, and a line says so.
    """
    if jax.process_index() != 0:
        return
    for name, figure in findings.figures.items():
        with _borne(f"figure {name!r}"):
            (directory / "plots").mkdir(parents=True, exist_ok=True)
            plots.save(figure, directory / "plots" / f"{name}.png")
    for name, arrays in findings.arrays.items():
        with _borne(f"arrays {name!r}"):
            directory.mkdir(parents=True, exist_ok=True)
            np.savez(directory / f"{name}.npz", allow_pickle=False, **arrays)
    for name, text in findings.texts.items():
        with _borne(f"text {name!r}"):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{name}.txt").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _borne(what: str) -> Iterator[None]:
    """Turns what fails inside into one line; a lost process is for the others to know."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        _log.warning("%s failed: %s: %s", what, type(error).__name__, reason)
        _log.debug("%s", what, exc_info=True)
