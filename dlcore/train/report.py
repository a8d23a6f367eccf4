"""The end of a training: what `summary.json` says."""

import datetime
import importlib.metadata
import pathlib
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import dlcore
from dlcore.train.loop import Outcome
from dlcore.train.preparation import OVERFIT_LOSS, Prepared


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
    return summary


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
    """The commit of the code, with "+changes" where the tree differs from it."""
    if shutil.which("git") is None:
        return "unknown"
    root = pathlib.Path(dlcore.__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "dlcore", "kernels", "experiments/**.py")
    return (git("rev-parse", "HEAD") or "unknown") + ("+changes" if changed else "")
