"""Checkpoints: asynchronous, atomic, verified, the newest few and the best kept.

Orbax, which is used nowhere else, writes a checkpoint into a temporary folder and renames it when
it is whole. Just before that, a manifest with the SHA-256 of every file goes into it. A checkpoint
counts only if its manifest agrees with its files, so a damaged one is known for what it is,
whichever byte was lost; it is moved aside, never deleted, and the one before it is used. That what
is written can be read back is not taken for granted: the first one is, unless it is very large.
"""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint._src.serialization import tensorstore_utils

from dlcore import memory
from dlcore.errors import TrainingError, UsageError
from dlcore.train import manifest

# Of all checkpoints, in a run directory or a phase's.
FOLDER = "checkpoints"
_STATE, _PROGRESS, _WATCHED = "state", "progress", "watched"
# Checkpoints that are no longer kept go there whole before they are deleted file by file.
_OBSOLETE = "obsolete"

# What is another one where a part of the state does not fit.
_OTHER = {"opt_state": "optimizer or version", "model_state": "model or number of devices"}

# What all processes together read back at most: each needs the whole state, in its host's memory.
_READ_BACK_BYTES = 2**34

# How often a reader looks for a checkpoint, while a training deletes those that it finds.
_ATTEMPTS = 10

# Orbax asks TensorStore for its counters at every save, for a line in a log; of what it gets,
# TensorStore (0.1.86) never frees the keys: 15 kB a save.
tensorstore_utils.get_tensorstore_raw_bytes = lambda *_: None

_log = logging.getLogger(__name__)


def unreadable(directory: pathlib.Path) -> str | None:
    """Why what is saved below a directory could not be restored, or None where it could."""
    for part in directory.absolute().parts:
        # Orbax looks its files up by a pattern, in which these match other names than their own,
        # and doubles the slash behind `gs:`; TensorStore takes a backslash for a slash.
        if re.search(r"[*?\[\\]|gs:$", part):
            return (
                f"checkpoints below {part} could not be read back: name a directory without * ? ["
                " \\ in its path, and no name in it that ends in gs:"
            )
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

    Damaged ones are reported and moved to `damaged`, a folder beside theirs.

    Args:
      directory: where they are; made where it is absent.
      keep: how many of the newest are kept.
      mode: "max" or "min": which value of the watched metric is best. The best one is kept too.
      read_only: only look; nothing is created, moved or removed, and damaged ones are passed over.

    Raises:
      UsageError: the directory cannot be used.
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
        if problem := unreadable(self.directory):
            raise UsageError(f"{self.directory} cannot hold checkpoints: {problem}")
        self.damaged = self.directory.parent / "damaged"
        # The newest step of those that were moved there now.
        self.lost = 0
        self._proven = False
        self._mode, self._read_only = mode, read_only
        policies = [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(
                get_metric_fn=_watched,
                reverse=mode == "min",
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            # The policies decide, but without a `best_fn` no metric is written.
            best_fn=_watched,
            cleanup_tmp_directories=not read_only,
            todelete_subdir=_OBSOLETE,
            create=not read_only,
            # Orbax's own `read_only` is this and two warnings.
            save_root_metadata=not read_only,
            # Otherwise Orbax reads the metrics of all at once, and fails where one is damaged.
            lightweight_initialize=read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        handlers: dict[str, ocp.CheckpointHandler] = {
            _STATE: ocp.StandardCheckpointHandler(),
            _PROGRESS: ocp.JsonCheckpointHandler(),
        }
        try:
            if not read_only:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._delete_obsolete()
            self._passed_over = self._exclude_damaged()
            self._manager = ocp.CheckpointManager(
                self.directory, options=options, item_handlers=handlers
            )
        except OSError as error:
            raise UsageError(
                f"{self.directory} cannot hold checkpoints: {error.strerror}"
            ) from error

    def _exclude_damaged(self) -> dict[int, str]:
        """Sets damaged checkpoints aside, or finds those to pass over: what is wrong, by step."""
        passed_over: dict[int, str] = {}
        if not self._read_only and jax.process_index() != 0:
            return passed_over  # Orbax's constructor waits for process 0.
        for step in sorted(
            int(path.name) for path in self.directory.glob("[1-9]*") if path.name.isdecimal()
        ):
            problem = manifest.damage(self.path(step))
            # A training that goes on deletes what it no longer keeps.
            if problem is None or not self.path(step).exists():
                continue
            if self._read_only:
                passed_over[step] = problem
                done = "passed over"
            else:
                done = f"moved to {self.path(step).rename(self.place_aside(str(step)))}"
                self.lost = step
            _log.warning("checkpoint %d is damaged (%s): %s", step, problem, done)
        return passed_over

    def place_aside(self, name: str) -> pathlib.Path:
        """A path in `damaged` where nothing is yet."""
        self.damaged.mkdir(exist_ok=True)
        while (self.damaged / name).exists():
            name += "-again"
        return self.damaged / name

    def _seal(self) -> None:
        # Orbax calls this when every process has written, before the rename that makes it count.
        if jax.process_index() == 0:
            for directory in self.directory.glob("*.orbax-checkpoint-tmp*"):
                manifest.write(directory)
        self._delete_obsolete()

    def _delete_obsolete(self) -> None:
        if jax.process_index() == 0:
            shutil.rmtree(self.directory / _OBSOLETE, ignore_errors=True)

    def steps(self) -> list[int]:
        """The steps of the undamaged checkpoints on disk, oldest first."""
        return sorted(set(self._manager.all_steps()) - self._passed_over.keys())

    def find(self, which: str = "best") -> int:
        """The step of a checkpoint.

        Args:
          which: "best" (the newest where nothing was watched), "newest", or the number of a step.

        Raises:
          UsageError: there is no checkpoint, or `which` is no such word.
        """
        if which.isdecimal():
            return int(which)
        if which not in ("best", "newest"):
            raise UsageError(f"checkpoint={which}: it is best, newest or the number of a step")
        steps = self.steps()
        if not steps:
            raise UsageError(f"no checkpoint in {self.directory}: train first")
        best = self.best() if which == "best" else None
        return best["step"] if best else steps[-1]

    def best(self) -> dict[str, Any] | None:
        """The "step" and watched "value" of the best checkpoint; None where nothing was watched."""
        metrics = {step: self._manager.metrics(step) for step in self.steps()}
        watched = [
            {"step": step, "value": _watched(values)} for step, values in metrics.items() if values
        ]
        sign = 1 if self._mode == "max" else -1
        # Of equals the newest, as Orbax keeps it.
        return max(watched, key=lambda one: (sign * one["value"], one["step"]), default=None)

    def path(self, step: int) -> pathlib.Path:
        """The folder of a step's checkpoint."""
        return self.directory / str(step)

    def save(
        self, step: int, state: Any, progress: dict[str, Any], watched: float | None = None
    ) -> None:
        """Starts writing a checkpoint; the state may be donated once this returns.

        The first one is waited for, and read back where it is not too large for that.

        Args:
          step: the number of the step that gave the state.
          state: the canonical state.
          progress: plain data for JSON.
          watched: the watched metric's value here, if it was just evaluated.

        Raises:
          TrainingError: this one or the one before could not be written, or not be read back.
        """
        metrics = None
        if watched is not None and math.isfinite(watched):
            metrics = {_WATCHED: watched}
        self.wait()
        args = ocp.args.Composite(
            **{_STATE: ocp.args.StandardSave(state), _PROGRESS: ocp.args.JsonSave(progress)}
        )
        try:
            self._manager.save(step, args=args, metrics=metrics, force=True)
        except OSError as error:
            raise self._unwritten(error) from error
        if not self._proven:
            self.wait()
            # A matter of sizes alone, so that all processes do the same.
            if jax.process_count() * memory.of_arrays(state) <= _READ_BACK_BYTES:
                self._prove(step, state)
            self._proven = True

    def _prove(self, step: int, state: Any) -> None:
        """Reads a checkpoint back, into the memory of the host, and compares it bit for bit."""
        # Of an array of NumPy's, Orbax restores one.
        host = jax.tree.map(lambda array: np.empty(array.shape, array.dtype), state)
        args = ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(host)})
        try:
            found = self._manager.restore(step, args=args)[_STATE]
        except Exception as error:
            raise TrainingError(
                f"the checkpoint {self.path(step)} cannot be read back: {_reason(error)}"
            ) from error
        for saved, read in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
            if not _equal(saved, read):
                raise TrainingError(
                    f"the checkpoint {self.path(step)} is read back with other numbers than were "
                    "saved: memory or disk is at fault"
                )

    def _unwritten(self, error: Exception) -> TrainingError:
        return TrainingError(
            f"a checkpoint could not be written to {self.directory}: {_reason(error)}; last good "
            f"checkpoint: {self.last_good()}"
        )

    def last_good(self) -> str:
        """The newest checkpoint in words."""
        steps = self.steps()
        return f"step {steps[-1]} in {self.path(steps[-1])}" if steps else "none"

    def restore(self, abstract_state: Any, step: int) -> Restored:
        """The checkpoint of a step, laid out as `abstract_state` (shapes with shardings) says.

        Raises:
          UsageError: there is none, it is damaged, or it holds another model.
        """
        self._check_whole(step)
        self._check_structure(abstract_state, step)
        args = ocp.args.Composite(
            **{
                _STATE: ocp.args.StandardRestore(abstract_state),
                _PROGRESS: ocp.args.JsonRestore(),
            }
        )
        restored = self._manager.restore(step, args=args)
        return Restored(step, restored[_STATE], restored[_PROGRESS])

    def progress(self, step: int) -> dict[str, Any]:
        """What the loop put beside the state of a step.

        Raises:
          UsageError: there is no such checkpoint, or it is damaged.
        """
        self._check_whole(step)
        args = ocp.args.Composite(**{_PROGRESS: ocp.args.JsonRestore()})
        return dict(self._manager.restore(step, args=args)[_PROGRESS])

    def restore_variables(self, step: int) -> dict[str, Any]:
        """The variables to evaluate at a step (`TrainState.variables`), on the first local device.

        Raises:
          UsageError: there is no such checkpoint, or it is damaged.
        """
        self._check_whole(step)
        # However it was laid out when it was saved, it is read onto one device.
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        saved = self._manager.item_metadata(step)[_STATE]
        abstract = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
            getattr(saved, "tree", saved),
        )
        args = ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(abstract)})
        state = self._manager.restore(step, args=args)[_STATE]
        return {
            "params": state["params"],
            **(state["model_state"] or {}),
            **(state["average"] or {}),
        }

    def _check_whole(self, step: int) -> None:
        if step in self._passed_over:
            problem = self._passed_over[step]
            raise UsageError(f"the checkpoint {self.path(step)} is damaged: {problem}")
        if step not in self.steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise UsageError(f"no checkpoint of step {step} in {self.directory}: there is {known}")

    def _check_structure(self, abstract_state: Any, step: int) -> None:
        saved = self._manager.item_metadata(step)[_STATE]
        found, expected = _arrays(getattr(saved, "tree", saved)), _arrays(abstract_state)
        names = sorted(found.keys() | expected.keys())
        # Parameters first: their names are the model's own.
        for name in sorted(names, key=lambda name: not name.startswith("params/")):
            if found.get(name) != expected.get(name):
                kind = _OTHER.get(name.partition("/")[0], "model")
                raise UsageError(
                    f"the checkpoint {self.path(step)} is of another {kind}: {name} is "
                    f"{found.get(name, 'absent')} there and {expected.get(name, 'absent')} here"
                )

    def restore_newest(self, abstract_state: Any) -> Restored | None:
        """The newest undamaged checkpoint, or None where there is none."""
        steps = self.steps()
        return self.restore(abstract_state, steps[-1]) if steps else None

    def wait(self) -> None:
        """Returns when everything that was saved is on disk.

        Raises:
          TrainingError: something could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error

    def close(self) -> None:
        """Waits, then lets go of the threads and files."""
        self.wait()
        self._manager.close()
        if not self._read_only:
            self._delete_obsolete()


def read[T](
    directory: pathlib.Path, mode: str, which: str, reader: Callable[[Checkpoints, int], T]
) -> T:
    """What `reader(checkpoints, step)` gives of a run's checkpoint.

    The run may go on meanwhile and delete the one that was found: then the next one is read.

    Args:
      directory: of the checkpoints.
      mode: as for `Checkpoints`.
      which: as for `Checkpoints.find`.
      reader: reads it.

    Raises:
      UsageError: there is none, or it is damaged or of another model.
    """
    for attempt in range(_ATTEMPTS):
        with contextlib.closing(Checkpoints(directory, mode=mode, read_only=True)) as checkpoints:
            step = checkpoints.find(which)
            try:
                return reader(checkpoints, step)
            except Exception:
                gone = not which.isdecimal() and not checkpoints.path(step).exists()
                if not gone or attempt == _ATTEMPTS - 1:
                    raise
    raise AssertionError("not reached")


def _reason(error: Exception) -> str:
    """What the system says of a file, without what TensorStore puts around it."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or str(error)


def _equal(saved: Any, read: np.ndarray) -> bool:
    """Whether what this process holds of an array is what was read, bit for bit."""
    return all(
        np.asarray(shard.data).tobytes() == read[shard.index].tobytes()
        for shard in jnp.asarray(saved).addressable_shards
    )


def _watched(metrics: dict[str, float]) -> float:
    return metrics[_WATCHED]


def _arrays(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # Orbax gives a state's attributes and tuples back as keys and indices: compare by their words.
    return {
        _words(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def _words(path: Any) -> str:
    words = []
    for entry in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(entry, attribute):
                words.append(str(getattr(entry, attribute)))
                break
    return "/".join(words)
