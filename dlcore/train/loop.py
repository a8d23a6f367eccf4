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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from dlcore import data
from dlcore import metrics as metrics_lib
from dlcore.errors import NotFiniteError, UsageError
from dlcore.optim import rate
from dlcore.tasks import TrainState
from dlcore.train.callbacks import Callback, not_finite
from dlcore.train.checkpoint import Checkpoints, Restored
from dlcore.train.evaluation import evaluate
from dlcore.train.findings import beside
from dlcore.train.program import Program
from dlcore.train.statistics import recompute
from dlcore.train.watchdog import StopSignal, Watchdog
from dlcore.train.writers import JsonLines, TensorBoard

_log = logging.getLogger(__name__)

# Steps that may be under way on the devices while the host goes on.
RUN_AHEAD = 2
# A compilation, or a checkpoint on a slow disk, may take this many times the limit on a step.
PATIENCE = 30.0
# `on_nonfinite=skip` gives up after so many skipped updates in a row.
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
class Start:
    """Where a training begins when it has no checkpoint of its own yet.

    A phase goes on with the numbers of the one before.

    Attributes:
      step: number of the last step before.
      epoch: epochs before.
      position: bytes of `metrics.jsonl` before.
      seconds: of training before.
      skipped: updates that were left out before.
    """

    step: int = 0
    epoch: float = 0.0
    position: int = 0
    seconds: float = 0.0
    skipped: int = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
      status: "complete", or "stopped" where it was asked to stop and can be resumed.
      reason: in words.
      step: the number of the last step.
      epoch: the epochs that were trained, those before the start included.
      first_step: where this process took it up.
      resumed: whether it took up what another process had begun.
      best: `{"step", "metric", "value"}` of the best checkpoint, or None.
      skipped: updates that were left out because they were not finite.
      seconds: of training, in all processes that took it up one after another.
      position: bytes of `metrics.jsonl`.
      state: the placed state.
    """

    status: str
    reason: str
    step: int
    epoch: float
    first_step: int
    resumed: bool
    best: dict[str, Any] | None
    skipped: int
    seconds: float
    position: int
    state: Any


# Called after an evaluation with the number of the step and of the evaluation, and the placed
# state; what it returns is recorded beside the metrics.
OnEvaluation = Callable[[int, int, Any], Mapping[str, float]]


class Loop:
    """One training, from its newest checkpoint or from the start.

    Args:
      program: what runs on the devices.
      dataset: gives the batches.
      plan: how long, how often.
      workdir: the run directory.
      seed: of the order of the examples.
      callbacks: who listens.
      start: where it begins without a checkpoint.
      make_state: makes the first canonical state; the program's own by default.
      checkpoints: the folder of its checkpoints in the run directory.
      on_evaluation: called after each evaluation.
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
        start: Start | None = None,
        make_state: Callable[[], TrainState] | None = None,
        checkpoints: str = "checkpoints",
        on_evaluation: OnEvaluation = lambda step, number, state: {},
    ) -> None:
        self._program, self._dataset, self._plan = program, dataset, plan
        self._seed, self._callbacks = seed, list(callbacks)
        self._start, self._make_state = start or Start(), make_state or program.initialize
        self._on_evaluation = on_evaluation
        self._layout = {
            "parallelism": program.parallelism.name,
            "devices": program.parallelism.device_count,
        }
        self._workdir = workdir
        self._checkpoints = Checkpoints(
            workdir / checkpoints, keep=plan.keep, mode=plan.watched_mode
        )
        writes = jax.process_index() == 0
        self._lines = JsonLines(workdir / "metrics.jsonl") if writes else None
        self._tensorboard: TensorBoard | None = None
        self._watchdog = Watchdog(
            plan.step_timeout,
            f"Run the same command again to resume from {self._checkpoints.directory}.",
        )
        self._reports: collections.deque[tuple[int, Any]] = collections.deque()
        self._skipped, self._consecutive = self._start.skipped, 0
        self._evaluated = self._resumed = False
        self._seconds_before, self._started = self._start.seconds, time.perf_counter()

    def run(self) -> Outcome:
        """Trains to the end of the plan, or until something ends it earlier.

        Raises:
          TrainingError: a loss or gradient was not finite, or a checkpoint could not be written.
        """
        # Whatever ends the training, everything is closed, and checkpoints under way are finished.
        with contextlib.ExitStack() as closing:
            closing.callback(self._checkpoints.close)
            if self._lines:
                closing.callback(self._lines.close)
            state, first = self._begin()
            if self._lines:
                self._tensorboard = TensorBoard(self._workdir / "tensorboard", first)
                closing.callback(self._tensorboard.close)
            for callback in self._callbacks:
                callback.on_start(first, self._last_step)
                closing.callback(callback.on_end)
            with self._watchdog, StopSignal() as signal:
                state, step, status, reason = self._train(state, first, signal)
                self._watchdog.progress("the last checkpoint", PATIENCE)
                self._checkpoints.wait()
            best = self._checkpoints.best()
            position = self._lines.position() if self._lines else 0
        return Outcome(
            status=status,
            reason=reason,
            step=step,
            epoch=self._epoch(step),
            first_step=first,
            resumed=self._resumed,
            best=best and {"metric": self._plan.watched_metric, **best},
            skipped=self._skipped,
            seconds=self._seconds(),
            position=position,
            state=state,
        )

    @property
    def _last_step(self) -> int:
        return self._start.step + self._plan.num_steps

    def _epoch(self, step: int) -> float:
        return self._start.epoch + (step - self._start.step) / self._plan.steps_per_epoch

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def _begin(self) -> tuple[Any, int]:
        """The placed state to go on from, and its step."""
        place = self._program.parallelism.place_state
        restored = self._checkpoints.restore_newest(self._program.abstract_state)
        if restored is None:
            self._begin_anew()
            state, first = self._make_state(), self._start.step
            return place(state.replace(step=state.step + first)), first
        self._resume(restored)
        return place(restored.state), restored.step

    def _begin_anew(self) -> None:
        if not self._lines:
            return
        if self._checkpoints.damaged.exists() and self._lines.position() > self._start.position:
            kept = self._checkpoints.place_aside(self._lines.path.name)
            shutil.copy(self._lines.path, kept)
            _log.warning("no checkpoint is left: beginning anew; the records so far: %s", kept)
        self._lines.cut(self._start.position)

    def _resume(self, restored: Restored) -> None:
        """Takes up everything but the state."""
        progress, self._resumed = restored.progress, True
        _log.info("resumed at step %d", restored.step)
        if (lost := self._checkpoints.lost) > restored.step:
            _log.warning("steps %d to %d are trained again", restored.step + 1, lost)
        self._seconds_before = progress["seconds"]
        self._skipped, self._consecutive = progress["skipped"], progress["consecutive_skips"]
        for callback in self._callbacks:
            if (name := type(callback).__name__) in progress["callbacks"]:
                callback.load(progress["callbacks"][name])
        if self._lines:
            self._lines.cut(progress["log_position"])
        if progress["layout"] != self._layout:
            _log.warning(
                "the checkpoint was made under %s, this is %s: equal to rounding, not bitwise",
                *(
                    f"{x['parallelism']} on {x['devices']}"
                    for x in (progress["layout"], self._layout)
                ),
            )

    def _train(self, state: Any, first: int, signal: StopSignal) -> tuple[Any, int, str, str]:
        """Trains from a state; the state at the end, its step, the status and the reason."""
        stream = self._dataset.train_batches(
            self._program.batch_size, self._seed, jax.process_index(), jax.process_count()
        ).start(first - self._start.step)
        step, reason = first, self._stop_reason()
        if reason:
            return state, step, "complete", reason
        self._watchdog.progress(f"step {first + 1}", PATIENCE)
        prefetched = data.prefetch(stream, self._program.parallelism.place_batch)
        with prefetched as batches:
            while step < self._last_step:
                state, report = self._program.step(state, next(batches))
                step += 1
                self._reports.append((step, report))
                self._settle(RUN_AHEAD)
                for callback in self._callbacks:
                    callback.on_step(step)
                state, reason = self._after(state, step)
                if reason:
                    return state, step, "complete", reason
                if signal.requested(step) and step < self._last_step:
                    if step not in self._checkpoints.steps():
                        self._save(state, step)
                    return state, step, "stopped", f"{signal.name} at step {step}"
        return state, step, "complete", f"{step} steps"

    def _after(self, state: Any, step: int) -> tuple[Any, str | None]:
        """Records, evaluates and saves where it is due; the state and why to end, or None."""
        plan, last = self._plan, step == self._last_step
        done = step - self._start.step
        if step % plan.log_every == 0 or last:
            self._settle(0)
            sums = self._program.parallelism.to_host(state.metrics)
            self._record(step, "train", metrics_lib.compute(sums))
        if done % plan.evaluate_every == 0 or last:
            state = self._with_statistics(state, step)
            watched = self._evaluate(state, step, -(-done // plan.evaluate_every))
            state, restarted = self._with_rate(state, step)
            # What is saved after a restart is not what was evaluated.
            self._save(state, step, None if restarted else watched)
            return state, self._stop_reason()
        if plan.checkpoint_every and done % plan.checkpoint_every == 0:
            self._save(state, step)
        return state, None

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
            streak = "" if stop else f", after {self._consecutive} skipped updates in a row"
            loss, norm = float(report.loss), float(report.gradient_norm)
            found = f"loss is {loss:g} and gradient norm is {norm:g}"
            if math.isfinite(loss) and math.isfinite(norm):
                found += ", but the updated parameters are not finite"
            raise NotFiniteError(
                f"step {step}: {found}{streak}; last good checkpoint: "
                f"{self._checkpoints.last_good()}. Lower learning_rate, set clip_norm, or pass "
                "over such updates: on_nonfinite=skip"
            )

    def _evaluate(self, state: Any, step: int, number: int) -> float | None:
        """Evaluates on the validation split, if there is one; returns the watched metric."""
        if "validation" not in self._dataset.splits:
            return None
        self._settle(0)
        patience = 1.0 if self._evaluated else PATIENCE
        self._watchdog.progress(f"the evaluation after step {step}", patience)
        values = evaluate(
            self._program,
            state,
            self._dataset.evaluation_batches(
                "validation", self._program.batch_size, jax.process_index(), jax.process_count()
            ),
            lambda: self._watchdog.progress(f"the evaluation after step {step}"),
        )
        self._evaluated = True
        self._watchdog.progress(f"the evaluators after step {step}", PATIENCE)
        values = beside(values, self._on_evaluation(step, number, state))
        metric = self._plan.watched_metric
        if metric is not None and metric not in values:
            raise UsageError(
                f"the watched metric {metric!r} is not evaluated: it is one of {', '.join(values)}"
            )
        self._record(step, "validation", values)
        if metric is None or step - self._start.step <= self._plan.watched_after:
            return None
        if wrong := not_finite(values):
            _log.warning("step %d: validation %s is not finite: never the best", step, wrong)
            return None
        return float(values[metric])

    def _with_statistics(self, state: Any, step: int) -> Any:
        """The state with statistics of the whole training set, where that is asked for."""
        if self._program.moments is None:
            return state
        self._settle(0)
        self._watchdog.progress(f"the statistics after step {step}", PATIENCE)
        # Without a curriculum, whose first epochs leave examples out.
        whole = self._dataset.limited(self._dataset.num_examples("train"))
        batches = whole.train_batches(
            self._program.batch_size, self._seed, jax.process_index(), jax.process_count()
        )
        return recompute(
            self._program,
            state,
            batches,
            lambda: self._watchdog.progress(f"the statistics after step {step}"),
        )

    def _with_rate(self, state: Any, step: int) -> tuple[Any, bool]:
        """The state with a lower rate where a callback asks for one, and whether it went back."""
        multiplier = math.prod(callback.rate_multiplier() for callback in self._callbacks)
        if multiplier == 1:
            return state, False
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
            state = state.restarted_from(placed, self._program.learner.state_kinds)
        opt_state = rate.rescale(state.opt_state, multiplier)
        return state.replace(opt_state=opt_state), best is not None

    def _record(self, step: int, split: str, values: dict[str, Any]) -> None:
        record = {"step": step, "epoch": round(self._epoch(step), 4), "split": split, **values}
        for writer in (self._lines, self._tensorboard):
            if writer:
                writer.write(record)
        for callback in self._callbacks:
            callback.on_record(record)

    def _save(self, state: Any, step: int, watched: float | None = None) -> None:
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
            "start": dataclasses.asdict(self._start),
        }
        canonical = self._program.parallelism.canonical_state(state)
        self._checkpoints.save(step, canonical, progress, watched)
        self._watchdog.progress(f"step {step + 1}")
