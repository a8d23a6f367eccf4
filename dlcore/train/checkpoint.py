"""Checkpoints: asynchronous, atomic, verified, the newest few and the best kept. The one user of Orbax.

Orbax writes a checkpoint into a temporary folder and renames it when it is whole. Just before that, a
manifest with the size and SHA-256 of every file goes into it. A checkpoint counts only if its manifest
agrees with its files, so a damaged one is known for what it is, whichever byte was lost; it is moved
aside, never deleted, and the one before it is used.
"""

import dataclasses
import hashlib
import json
import logging
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from dlcore.errors import TrainingError, UsageError

MANIFEST = "manifest.json"
DAMAGED = "damaged"
_STATE, _PROGRESS = "state", "progress"

_log = logging.getLogger(__name__)


# Orbax writes the time of the commit into this one after the manifest is made.
_LATE = "_CHECKPOINT_METADATA"


def _files(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return iter(sorted(path for path in paths if path.name not in (MANIFEST, _LATE)))


def _describe(path: pathlib.Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _write_manifest(directory: pathlib.Path) -> None:
    files = {str(path.relative_to(directory)): _describe(path) for path in _files(directory)}
    (directory / MANIFEST).write_text(json.dumps({"files": files}, indent=1))


def damage(directory: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint's files, or None where all agree with the manifest."""
    try:
        expected = json.loads((directory / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or unreadable"
    try:
        json.loads((directory / _LATE).read_text())
    except (OSError, ValueError):
        return f"{_LATE} is missing or unreadable"
    for name, facts in expected.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
        if _describe(path) != facts:
            return f"{name} has other contents than were written"
    return None


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint in memory.

    Attributes:
      step: the step it was saved at.
      state: the canonical state.
      progress: what the loop put beside it, from JSON.
    """

    step: int
    state: Any
    progress: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      directory: where they are; made where it is absent.
      keep: how many of the newest are kept.
      mode: "max" or "min": which value of the watched metric is best. The best one is kept too.
      read_only: only look; nothing is created, moved or removed.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep: int = 2,
        mode: str = "max",
        read_only: bool = False,
    ) -> None:
        self.directory = directory.absolute()
        policies = [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics["watched"],
                reverse=mode == "min",
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        self._read_only, self._mode = read_only, mode
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        handlers: dict[str, ocp.CheckpointHandler] = {
            _STATE: ocp.StandardCheckpointHandler(),
            _PROGRESS: ocp.JsonCheckpointHandler(),
        }
        return ocp.CheckpointManager(
            self.directory, options=self._options, item_handlers=handlers
        )

    def _seal(self) -> None:
        # Orbax calls this when every process has written, before the rename that makes it count.
        if jax.process_index() == 0:
            for directory in self.directory.glob("*.orbax-checkpoint-tmp*"):
                _write_manifest(directory)

    def steps(self) -> list[int]:
        """The steps of the checkpoints on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def find(self, which: str = "best") -> int:
        """The step of a checkpoint: "best" (the newest where nothing was watched), "newest", or a number.

        Raises:
          UsageError: there is no checkpoint, or `which` is no such word.
        """
        steps = self.steps()
        if not steps:
            raise UsageError(f"no checkpoint in {self.directory}: train first")
        if which not in ("best", "newest"):
            if not which.isdigit():
                raise UsageError(f"--checkpoint={which}: it is best, newest or the number of a step")
            return int(which)
        watched = {step: self._manager.metrics(step) for step in steps}
        scores = [(metrics["watched"], step) for step, metrics in watched.items() if metrics]
        if which == "newest" or not scores:
            return steps[-1]
        sign = 1 if self._mode == "max" else -1
        return max((sign * score, step) for score, step in scores)[1]

    def path(self, step: int) -> pathlib.Path:
        """The folder of a step's checkpoint."""
        return self.directory / str(step)

    def save(
        self, step: int, state: Any, progress: dict[str, Any], watched: float | None = None
    ) -> None:
        """Starts writing a checkpoint; the state may be donated once this returns.

        Args:
          step: the number of the step that gave the state.
          state: the canonical state.
          progress: plain data for JSON.
          watched: the watched metric's value here, if it was just evaluated.
        """
        metrics = None
        if watched is not None and math.isfinite(watched):
            metrics = {"watched": watched}
        args = ocp.args.Composite(
            **{_STATE: ocp.args.StandardSave(state), _PROGRESS: ocp.args.JsonSave(progress)}
        )
        try:
            self._manager.save(step, args=args, metrics=metrics, force=True)
        except OSError as error:
            raise TrainingError(
                f"step {step}: the checkpoint could not be written to {self.directory}: {error}"
            ) from error

    def restore(self, abstract_state: Any, step: int) -> Restored:
        """The checkpoint of a step, laid out as `abstract_state` (shapes with shardings) says.

        Raises:
          UsageError: there is none, it is damaged, or it holds another model.
        """
        if step not in self.steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise UsageError(f"no checkpoint of step {step} in {self.directory}: there is {known}")
        problem = damage(self.path(step))
        if problem:
            raise UsageError(f"the checkpoint {self.path(step)} is damaged: {problem}")
        self._check_structure(abstract_state, step)
        args = ocp.args.Composite(
            **{
                _STATE: ocp.args.StandardRestore(abstract_state),
                _PROGRESS: ocp.args.JsonRestore(),
            }
        )
        restored = self._manager.restore(step, args=args)
        return Restored(step, restored[_STATE], restored[_PROGRESS])

    def _check_structure(self, abstract_state: Any, step: int) -> None:
        saved = self._manager.item_metadata(step)[_STATE]
        found, expected = _shapes(getattr(saved, "tree", saved)), _shapes(abstract_state)
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                raise UsageError(
                    f"the checkpoint {self.path(step)} is of another model: {name} is "
                    f"{found.get(name, 'absent')} there and {expected.get(name, 'absent')} here"
                )

    def restore_newest(self, abstract_state: Any) -> Restored | None:
        """The newest whole checkpoint, or None; damaged ones are reported and moved aside."""
        for step in reversed(self.steps()):
            problem = damage(self.path(step))
            if problem is None:
                return self.restore(abstract_state, step)
            self._set_aside(step, problem)
        return None

    def _set_aside(self, step: int, problem: str) -> None:
        if self._read_only:
            _log.warning("checkpoint %d is damaged (%s): trying an older one", step, problem)
            return
        aside = self.directory.parent / DAMAGED / str(step)
        while aside.exists():
            aside = aside.with_name(aside.name + "-again")
        _log.warning(
            "checkpoint %d is damaged (%s): moved to %s, trying an older one", step, problem, aside
        )
        if jax.process_index() == 0:
            aside.parent.mkdir(exist_ok=True)
            self.path(step).rename(aside)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.close()
        self._manager = self._open()

    def wait(self) -> None:
        """Returns when everything that was saved is on disk.

        Raises:
          TrainingError: something could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise TrainingError(
                f"a checkpoint could not be written to {self.directory}: {error}"
            ) from error

    def close(self) -> None:
        """Waits, then lets go of the threads and files."""
        self.wait()
        self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # Orbax gives a state's attributes and tuples back as keys and indices: compare by their words.
    return {_words(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}


def _words(path: Any) -> str:
    words = []
    for entry in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(entry, attribute):
                words.append(str(getattr(entry, attribute)))
                break
    return "/".join(words)
