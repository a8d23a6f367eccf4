"""The end of a training: what `summary.json` says."""

import datetime
import importlib.metadata
import pathlib
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

import jax
import msgspec
import numpy as np

import dlcore
from dlcore.errors import UsageError
from dlcore.train import workdir, writers
from dlcore.train.loop import Outcome
from dlcore.train.preparation import OVERFIT_LOSS, Prepared

Scores = dict[str, float | None]


class _Whole(TypedDict):
    """What every summary has, as far as anything is read from it again."""

    status: Literal["complete"]
    reason: str
    step: int
    best: dict[str, Any] | None
    skipped_updates: int
    parameters: int
    seconds: float
    resumed: bool
    devices: dict[str, Any]
    versions: dict[str, str]
    commit: str
    date: str
    train: NotRequired[Scores]
    validation: NotRequired[Scores]
    test: NotRequired[Scores]
    learned_by_heart: NotRequired[bool]


def read_summary(path: pathlib.Path) -> dict[str, Any]:
    """What `summarize` gave, from its file.

    Raises:
      UsageError: the file is not there, or holds no summary.
    """
    summary = workdir.read_json(path)
    try:
        msgspec.convert(summary, _Whole)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} is damaged: it holds no summary ({error})") from error
    return summary


def scalars(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are plain numbers."""
    return {name: float(value) for name, value in values.items() if np.ndim(value) == 0}


def summarize(
    prepared: Prepared, outcome: Outcome, results: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """How a training ended.

    Args:
      prepared: what was trained, of several phases the last.
      outcome: how it ended.
      results: scores of the best checkpoint by split and name.

    Returns:
      The summary, with None in the place of scores that are not finite.
    """
    summary: dict[str, Any] = {
        "status": outcome.status,
        "reason": outcome.reason,
        "step": outcome.step,
        "best": outcome.best,
        "skipped_updates": outcome.skipped,
        **results,
        "parameters": count_parameters(prepared),
        "seconds": round(outcome.seconds, 1),
        "resumed": outcome.resumed,
        "devices": describe_devices(prepared),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    if prepared.recipe.overfit:
        summary["learned_by_heart"] = results["validation"]["loss"] <= OVERFIT_LOSS
    return dict(writers.plain(summary))


def count_parameters(prepared: Prepared) -> int:
    """The number of trained parameters."""
    return sum(array.size for array in jax.tree.leaves(prepared.program.abstract_state.params))


def describe_devices(prepared: Prepared) -> dict[str, Any]:
    """What the training ran on."""
    return {
        "kind": jax.devices()[0].device_kind,
        "count": prepared.program.parallelism.device_count,
        "parallelism": prepared.program.parallelism.name,
        "processes": jax.process_count(),
    }


def versions() -> dict[str, str]:
    """The versions of the packages that decide a result."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    installed = {package: importlib.metadata.version(package) for package in packages}
    return {"dlcore": dlcore.__version__, **installed}


def commit() -> str:
    """The commit of the code, with "+changes" where the tree differs from it.

    "unknown" where the code is installed, in whatever repository it may lie.
    """
    root = pathlib.Path(dlcore.__file__).parents[1]
    if shutil.which("git") is None or not (root / ".git").exists():
        return "unknown"

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "dlcore", "kernels", "experiments/**.py")
    return (git("rev-parse", "HEAD") or "unknown") + ("+changes" if changed else "")
