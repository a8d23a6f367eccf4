"""The loop: batches in, records and checkpoints out, and a clear end however it comes.

Only the host side of a training is here. The loop runs ahead of the devices by a few steps, looks
at each step's report when it is ready, and waits only where a record, an evaluation or a checkpoint
needs it.
"""

import collections
import contextlib
import dataclasses
import logging
import math
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Any

import jax

from dlcore import data
from dlcore import metrics as metrics_lib
from dlcore.errors import NotFiniteError, UsageError
from dlcore.optim import rate
from dlcore.train.callbacks import Callback
from dlcore.train.checkpoint import Checkpoints, Restored
from dlcore.train.evaluation import evaluate
from dlcore.train.program import Program
from dlcore.train.statistics import recompute
from dlcore.train.watchdog import StopSignal, Watchdog
from dlcore.train.writers import JsonLines, TensorBoard

_log = logging.getLogger(__name__)

# Steps that may be under way on the devices while the host goes on.
RUN_AHEAD = 2
# A compilation, or a checkpoint on a slow disk, may take this many times the limit on a step.
PATIENCE = 30.0
# `--on_nonfinite=skip` gives up after so many skipped updates in a row.
MAXIMUM_CONSECUTIVE_SKIPS = 100


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a training goes on and what happens on the way; all intervals in steps.

    Attributes:
      num_steps: the number of steps in all.
      steps_per_epoch: the batches in one pass over the training split.
      log_every: a record of the training metrics; the same as the step's.
      evaluate_every: an evaluation on the validation split, and a checkpoint.
      checkpoint_every: further checkpoints; 0 for none.
      keep: how many of the newest checkpoints stay, beside the best.
      watched_metric: the validation metric that says which checkpoint is best; None where only the
        newest counts.
      watched_mode: "max" or "min".
      watched_after: evaluations up to this step say nothing of which checkpoint is best.
      restart_from_best: go back to the best checkpoint whenever a callback lowers the rate.
      on_nonfinite: "stop" or "skip": what a non-finite loss or gradient does.
      step_timeout: seconds without progress that end the process; 0 for no limit.
    """

    num_steps: int
    steps_per_epoch: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int = 0
    keep: int = 2
    watched_metric: str | None = "loss"
    watched_mode: str = "min"
    watched_after: int = 0
    restart_from_best: bool = False
    on_nonfinite: str = "stop"
    step_timeout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
      status: "complete", or "stopped" where it was asked to stop and can be resumed.
      reason: in words.
      step: the number of the last step.
      first_step: where this process took it up.
      best: `{"step", "metric", "value"}` of the best checkpoint, or None.
      skipped: updates that were left out because they were not finite.
      seconds: of training, in all processes that took it up one after another.
      state: the placed state.
    """

    status: str
    reason: str
    step: int
    first_step: int
    best: dict[str, Any] | None
    skipped: int
    seconds: float
    state: Any


class Loop:
    """One training, from its newest checkpoint or from the start.

    Args:
      program: what runs on the devices.
      dataset: gives the batches.
      plan: how long, how often.
      workdir: the run directory.
      seed: of the order of the examples.
      callbacks: who listens.
    """

    def __init__(
        self,
        program: Program,
        dataset: data.Dataset,
        plan: Plan,
        workdir: pathlib.Path,
        *,
        seed: int,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._program, self._dataset, self._plan = program, dataset, plan
        self._seed, self._callbacks = seed, list(callbacks)
        self._batch_size = next(iter(program.batch.values())).shape[0]
        self._layout = {
            "parallelism": program.parallelism.name,
            "devices": program.parallelism.device_count,
        }
        self._writes = jax.process_index() == 0
        self._workdir = workdir
        self._checkpoints = Checkpoints(
            workdir / "checkpoints", keep=plan.keep, mode=plan.watched_mode
        )
        self._lines = JsonLines(workdir / "metrics.jsonl") if self._writes else None
        self._tensorboard: TensorBoard | None = None
        self._reports: collections.deque[tuple[int, Any]] = collections.deque()
        self._skipped = self._consecutive = 0
        self._evaluated = False
        self._seconds_before, self._started = 0.0, time.perf_counter()

    def run(self) -> Outcome:
        """Trains to the end of the plan, or until something ends it earlier.

        Raises:
          TrainingError: a loss or gradient was not finite, or a checkpoint could not be written.
        """
        advice = f"Run the same command again to resume from {self._checkpoints.directory}."
        # Whatever ends the training, everything is closed, and checkpoints under way are finished.
        with contextlib.ExitStack() as closing:
            closing.callback(self._checkpoints.close)
            if self._lines:
                closing.callback(self._lines.close)
            self._state, first = self._begin()
            if self._writes:
                self._tensorboard = TensorBoard(self._workdir / "tensorboard", first)
                closing.callback(self._tensorboard.close)
            for callback in self._callbacks:
                callback.on_start(first, self._plan.num_steps)
                closing.callback(callback.on_end)
            with Watchdog(self._plan.step_timeout, advice) as self._watchdog:
                step, status, reason = self._train(first)
                self._watchdog.progress("the last checkpoint", PATIENCE)
                self._checkpoints.wait()
            best = self._checkpoints.best()
        return Outcome(
            status=status,
            reason=reason,
            step=step,
            first_step=first,
            best=best and {"metric": self._plan.watched_metric, **best},
            skipped=self._skipped,
            seconds=self._seconds(),
            state=self._state,
        )

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def _begin(self) -> tuple[Any, int]:
        """The state to go on from, and its step."""
        restored = self._checkpoints.restore_newest(self._program.abstract_state)
        if restored is None:
            self._begin_anew()
            return self._program.parallelism.place_state(self._program.initialize()), 0
        self._resume(restored)
        return self._program.parallelism.place_state(restored.state), restored.step

    def _begin_anew(self) -> None:
        if not self._lines:
            return
        if self._checkpoints.damaged.exists():
            kept = self._checkpoints.place_aside(self._lines.path.name)
            shutil.copy(self._lines.path, kept)
            _log.warning("no checkpoint is left: beginning anew; the records so far: %s", kept)
        self._lines.cut(0)

    def _resume(self, restored: Restored) -> None:
        """Takes up everything but the state."""
        progress = restored.progress
        _log.info("resumed at step %d", restored.step)
        self._seconds_before = progress["seconds"]
        self._skipped, self._consecutive = progress["skipped"], progress["consecutive_skips"]
        for callback in self._callbacks:
            if (name := type(callback).__name__) in progress["callbacks"]:
                callback.load(progress["callbacks"][name])
        if self._lines:
            if self._lines.position() < progress["log_position"]:
                _log.warning("%s is shorter than it was: records are lost", self._lines.path)
            self._lines.cut(progress["log_position"])
        if progress["layout"] != self._layout:
            _log.warning(
                "the checkpoint was made under %s, this is %s: equal to rounding, not bitwise",
                *(
                    f"{x['parallelism']} on {x['devices']}"
                    for x in (progress["layout"], self._layout)
                ),
            )

    def _train(self, first: int) -> tuple[int, str, str]:
        plan = self._plan
        stream = self._dataset.train_batches(
            self._batch_size, self._seed, jax.process_index(), jax.process_count()
        ).start(first)
        step, reason = first, self._stop_reason()
        if reason:
            return step, "complete", reason
        self._watchdog.progress(f"step {first + 1}", PATIENCE)
        prefetched = data.prefetch(stream, self._program.parallelism.place_batch)
        with StopSignal() as signal, prefetched as batches:
            while step < plan.num_steps:
                self._state, report = self._program.step(self._state, next(batches))
                step += 1
                self._reports.append((step, report))
                self._settle(RUN_AHEAD)
                for callback in self._callbacks:
                    callback.on_step(step)
                reason = self._after(step)
                if reason:
                    return step, "complete", reason
                if signal.requested(step) and step < plan.num_steps:
                    if step not in self._checkpoints.steps():
                        self._save(step)
                    return step, "stopped", f"{signal.name} at step {step}"
        return step, "complete", f"{plan.num_steps} steps"

    def _after(self, step: int) -> str | None:
        """Records, evaluates and saves where it is due; returns why to end, or None."""
        plan, last = self._plan, step == self._plan.num_steps
        if step % plan.log_every == 0 or last:
            self._settle(0)
            sums = self._program.parallelism.to_host(self._state.metrics)
            self._record(step, "train", metrics_lib.compute(sums))
        if step % plan.evaluate_every == 0 or last:
            self._recompute_statistics(step)
            watched = self._evaluate(step)
            # What is saved after a restart is not what was evaluated.
            self._save(step, None if self._lower_rate(step) else watched)
            return self._stop_reason()
        if plan.checkpoint_every and step % plan.checkpoint_every == 0:
            self._save(step)
        return None

    def _stop_reason(self) -> str | None:
        reasons = (callback.stop_reason() for callback in self._callbacks)
        return next((reason for reason in reasons if reason), None)

    def _settle(self, under_way: int) -> None:
        """Looks at the reports of all but the newest `under_way` steps."""
        while len(self._reports) > under_way:
            step, report = self._reports.popleft()
            report = self._program.parallelism.to_host(report)
            self._watchdog.progress(f"step {step + 1}")
            if report.finite:
                self._consecutive = 0
                continue
            self._skipped += 1
            self._consecutive += 1
            stop = self._plan.on_nonfinite == "stop"
            if not stop and self._consecutive < MAXIMUM_CONSECUTIVE_SKIPS:
                continue
            saved = self._checkpoints.steps()
            good = f"step {saved[-1]} in {self._checkpoints.path(saved[-1])}" if saved else "none"
            streak = "" if stop else f", after {self._consecutive} skipped updates in a row"
            raise NotFiniteError(
                f"step {step}: loss is {float(report.loss):g} and gradient norm is "
                f"{float(report.gradient_norm):g}{streak}; last good checkpoint: {good}. Lower "
                "--learning_rate, set --clip_norm, or pass over such updates: --on_nonfinite=skip"
            )

    def _evaluate(self, step: int) -> float | None:
        """Evaluates on the validation split, if there is one; returns the watched metric."""
        if "validation" not in self._dataset.splits:
            return None
        self._settle(0)
        patience = 1.0 if self._evaluated else PATIENCE
        self._watchdog.progress(f"the evaluation after step {step}", patience)
        values = evaluate(
            self._program,
            self._state,
            self._dataset.evaluation_batches(
                "validation", self._batch_size, jax.process_index(), jax.process_count()
            ),
            lambda: self._watchdog.progress(f"the evaluation after step {step}"),
        )
        self._evaluated = True
        metric = self._plan.watched_metric
        if metric is not None and metric not in values:
            raise UsageError(
                f"the watched metric {metric!r} is not evaluated: it is one of {', '.join(values)}"
            )
        self._record(step, "validation", values)
        if metric is None or step <= self._plan.watched_after:
            return None
        return float(values[metric])

    def _recompute_statistics(self, step: int) -> None:
        """Gives normalisation the statistics of the whole training set, where that is asked for."""
        if self._program.moments is None:
            return
        self._settle(0)
        self._watchdog.progress(f"the statistics after step {step}", PATIENCE)
        # Without a curriculum, whose first epochs leave examples out.
        whole = self._dataset.limited(self._dataset.num_examples("train"))
        batches = whole.train_batches(
            self._batch_size, self._seed, jax.process_index(), jax.process_count()
        )
        self._state = recompute(
            self._program,
            self._state,
            batches,
            lambda: self._watchdog.progress(f"the statistics after step {step}"),
        )

    def _lower_rate(self, step: int) -> bool:
        """Lowers the learning rate where a callback asks for it; says whether it went back."""
        multiplier = math.prod(callback.rate_multiplier() for callback in self._callbacks)
        if multiplier == 1:
            return False
        _log.info("step %d: the learning rate is multiplied by %g", step, multiplier)
        best = None
        if self._plan.restart_from_best:
            self._watchdog.progress(f"the return to the best after step {step}", PATIENCE)
            self._checkpoints.wait()
            best = self._checkpoints.best()
        if best:
            _log.info("step %d: back to the parameters of step %d", step, best["step"])
            earlier = self._checkpoints.restore(self._program.abstract_state, best["step"])
            placed = self._program.parallelism.place_state(earlier.state)
            self._state = self._state.restarted_from(placed)
        opt_state = rate.rescale(self._state.opt_state, multiplier)
        self._state = self._state.replace(opt_state=opt_state)
        return best is not None

    def _record(self, step: int, split: str, values: dict[str, Any]) -> None:
        epoch = round(step / self._plan.steps_per_epoch, 4)
        record = {"step": step, "epoch": epoch, "split": split, **values}
        for writer in (self._lines, self._tensorboard):
            if writer:
                writer.write(record)
        for callback in self._callbacks:
            callback.on_record(record)

    def _save(self, step: int, watched: float | None = None) -> None:
        self._settle(0)
        self._watchdog.progress(f"the checkpoint of step {step}", PATIENCE)
        progress = {
            "log_position": self._lines.position() if self._lines else 0,
            "skipped": self._skipped,
            "seconds": self._seconds(),
            "consecutive_skips": self._consecutive,
            # By name: which callbacks there are differs among processes and invocations.
            "callbacks": {
                type(callback).__name__: callback.state() for callback in self._callbacks
            },
            "layout": self._layout,
        }
        state = self._program.parallelism.canonical_state(self._state)
        self._checkpoints.save(step, state, progress, watched)
        self._watchdog.progress(f"step {step + 1}")
