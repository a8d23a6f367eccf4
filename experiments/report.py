"""The end of a training: the best checkpoint tested, and `summary.json`."""

import datetime
import importlib.metadata
import pathlib
import shutil
import subprocess
import time
from typing import Any

import jax
from jax.experimental import multihost_utils

import dlcore
from dlcore.train import checkpoint, evaluation, loop
from experiments import outputs, tables
from experiments.session import OVERFIT_LOSS, Session
from experiments.workdir import write_json


def restore(session: Session, workdir: pathlib.Path, which: str = "best") -> checkpoint.Restored:
    """A run's checkpoint, canonical.

    Args:
      session: of the run's recipe.
      workdir: the run directory.
      which: "best", "newest", or the number of a step.

    Raises:
      UsageError: there is none, or it is damaged or of another model.
    """
    checkpoints = checkpoint.Checkpoints(
        workdir / "checkpoints", mode=session.plan.watched_mode, read_only=True
    )
    try:
        step = checkpoints.find(which)
        return checkpoints.restore(session.program.abstract_state, step)
    finally:
        checkpoints.close()


def evaluate(session: Session, state: Any, split: str) -> dict[str, Any]:
    """Every metric of the task over a split; `state` is canonical."""
    program = session.program
    batches = session.dataset.evaluation_batches(
        split, session.recipe.batch_size, jax.process_index(), jax.process_count()
    )
    return evaluation.evaluate(program, program.parallelism.place_state(state), batches)


def finish(
    session: Session,
    outcome: loop.Outcome,
    workdir: pathlib.Path,
    judge: outputs.Judge | None = None,
) -> dict[str, Any]:
    """Tests the best checkpoint of a completed training, draws its figures, writes the summary.

    Args:
      session: what was trained.
      outcome: how it ended.
      workdir: the run directory.
      judge: of generated samples.

    Returns:
      The summary.
    """
    started = time.perf_counter()
    restored = restore(session, workdir)
    results = {
        split: evaluate(session, restored.state, split)
        for split in ("validation", "test")
        if split in session.dataset.splits
    }
    summary: dict[str, Any] = {
        "status": outcome.status,
        "reason": outcome.reason,
        "step": outcome.step,
        "best": outcome.best,
        "skipped_updates": outcome.skipped,
        **{split: tables.scalars(values) for split, values in results.items()},
        "parameters": count_parameters(session),
        "seconds": round(outcome.seconds, 1),
        "resumed": outcome.first_step > 0,
        "devices": describe_devices(session),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    if session.recipe.overfit:
        summary["learnt_by_heart"] = results["validation"]["loss"] <= OVERFIT_LOSS
    # Of several processes the first one draws, which needs all of the variables for itself.
    variables = multihost_utils.process_allgather(restored.state.variables(), tiled=True)
    if jax.process_index() == 0:
        summary |= outputs.leave(session, variables, results.get("test", {}), workdir, judge)
    summary["report_seconds"] = round(time.perf_counter() - started, 1)
    if jax.process_index() == 0:
        write_json(workdir / "summary.json", summary)
    return summary


def count_parameters(session: Session) -> int:
    """The number of trained parameters."""
    return sum(array.size for array in jax.tree.leaves(session.program.abstract_state.params))


def describe_devices(session: Session) -> dict[str, Any]:
    """What the training ran on."""
    return {
        "kind": jax.devices()[0].device_kind,
        "count": session.program.parallelism.device_count,
        "parallelism": session.program.parallelism.name,
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
    root = pathlib.Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "dlcore", "kernels", "experiments/**.py")
    return (git("rev-parse", "HEAD") or "unknown") + ("+changes" if changed else "")
