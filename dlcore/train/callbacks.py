"""What listens to a training: a progress bar, early stopping, the rate that drops on a plateau.

A callback sees records (the lines of `metrics.jsonl`) and steps; it never touches the state. What
it remembers goes into the checkpoint, so that a resumed run decides as an uninterrupted one would.
"""

import contextlib
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, override

import jax

Record = Mapping[str, Any]


def not_finite(record: Record) -> str:
    """The names of a record's numbers that are not finite: such an evaluation is never the best."""
    numbers = {name: value for name, value in record.items() if isinstance(value, float)}
    return ", ".join(name for name, value in numbers.items() if not math.isfinite(value))


class Callback:
    """Does nothing; subclasses override what they need."""

    def on_start(self, step: int, num_steps: int) -> None:
        """The training begins at `step` and plans to end at `num_steps`."""

    def on_step(self, step: int) -> None:
        """Step number `step` (from 1) was handed to the devices."""

    def on_record(self, record: Record) -> None:
        """A record was written: sums over some steps, or an evaluation."""

    def on_end(self) -> None:
        """The training is over, however it ended."""

    def stop_reason(self) -> str | None:
        """Why the training should end now, or None."""
        return None

    def rate_multiplier(self) -> float:
        """What the learning rate is multiplied by after the evaluation that was just recorded."""
        return 1.0

    def state(self) -> dict[str, Any]:
        """Plain data to find again after a resume."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave."""


class ProgressBar(Callback):
    """Steps done, time left, the latest numbers, on standard error while somebody reads it."""

    SHOWN = ("loss", "accuracy", "perplexity", "generator_loss", "discriminator_loss")

    def __init__(self) -> None:
        self._latest: dict[str, str] = {}
        self._bar: Any = None

    @override
    def on_start(self, step: int, num_steps: int) -> None:
        if sys.stderr is None:
            return
        import tqdm

        # The terminal may be closed, or who read the pipe gone: no reason to end a training.
        with contextlib.suppress(OSError):
            self._bar = tqdm.tqdm(
                total=num_steps,
                initial=step,
                unit="step",
                file=sys.stderr,
                dynamic_ncols=True,
                # Where nobody watches (a log file), a line now and then is enough.
                mininterval=0.2 if sys.stderr.isatty() else 10.0,
            )

    @override
    def on_step(self, step: int) -> None:
        if self._bar is None:
            return
        try:
            self._bar.update(step - self._bar.n)
        except OSError:
            self._bar.disable, self._bar = True, None

    @override
    def on_record(self, record: Record) -> None:
        if self._bar is None:
            return
        prefix = {"train": "", "validation": "val_", "test": "test_"}[record["split"]]
        shown = {prefix + name: record[name] for name in self.SHOWN if name in record}
        self._latest |= {name: f"{value:.4g}" for name, value in shown.items()}
        self._bar.set_postfix(self._latest, refresh=False)

    @override
    def on_end(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()


class _Patience(Callback):
    """Counts the evaluations since a validation metric was better than ever before.

    Args:
      metric: its name in the validation records.
      mode: "max" or "min": which direction is better.
      patience: evaluations without improvement that are borne.
      first_step: evaluations up to this step do not count.
    """

    def __init__(self, metric: str, mode: str, patience: int, first_step: int = 0) -> None:
        self._metric, self._sign, self._patience = metric, 1 if mode == "max" else -1, patience
        self._first_step = first_step
        self._best: float | None = None
        self._waited = 0

    @override
    def on_record(self, record: Record) -> None:
        if record["split"] != "validation" or record["step"] <= self._first_step:
            return
        value = self._sign * record[self._metric]
        # NaN is no improvement, and nothing would ever improve on it.
        if not not_finite(record) and (self._best is None or value > self._best):
            self._best, self._waited = value, 0
        else:
            self._waited += 1

    @override
    def state(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited}

    @override
    def load(self, state: Mapping[str, Any]) -> None:
        self._best, self._waited = state["best"], state["waited"]


class EarlyStopping(_Patience):
    """Ends the training when a validation metric has not improved for a while: see `_Patience`."""

    @override
    def stop_reason(self) -> str | None:
        if self._waited < self._patience:
            return None
        return f"no better validation {self._metric} in {self._waited} evaluations"


class Plateau(_Patience):
    """Lowers the learning rate when a validation metric has not improved for a while.

    So the rate of ResNet fell, by 10 when the error stalled (He et al., 2016, section 4.2). Then it
    waits anew; what counts as better does not change.

    Args:
      decay_factor: what the rate is multiplied by, in (0, 1).
      patience: of `_Patience`, as the rest.
    """

    def __init__(self, decay_factor: float, **patience: Any) -> None:
        super().__init__(**patience)
        self._decay_factor = decay_factor

    @override
    def rate_multiplier(self) -> float:
        if self._waited < self._patience:
            return 1.0
        self._waited = 0
        return self._decay_factor


class LossTarget(Callback):
    """Ends the training when the evaluated loss is small enough.

    Args:
      loss: the mean loss that is low enough.
    """

    def __init__(self, loss: float) -> None:
        self._target = loss
        self._latest: float | None = None

    @override
    def on_record(self, record: Record) -> None:
        if record["split"] == "validation":
            self._latest = record["loss"]

    @override
    def stop_reason(self) -> str | None:
        if self._latest is None or not self._latest <= self._target:
            return None
        return f"the loss is {self._latest:.4g}, at most {self._target:g}"

    @override
    def state(self) -> dict[str, Any]:
        return {"latest": self._latest}

    @override
    def load(self, state: Mapping[str, Any]) -> None:
        self._latest = state["latest"]


class Profiler(Callback):
    """Writes a trace of a few steps that TensorBoard and Perfetto show.

    Args:
      directory: of the trace.
    """

    # After compilation and the first steps have settled.
    FIRST, LAST = 10, 15

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._running = False

    @override
    def on_start(self, step: int, num_steps: int) -> None:
        # A short run is traced from its last step but one.
        self._first = min(step + self.FIRST, num_steps - 1)
        self._last = step + self.LAST

    @override
    def on_step(self, step: int) -> None:
        if step == self._first:
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif step == self._last:
            self.on_end()

    @override
    def on_end(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
