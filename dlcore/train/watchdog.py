"""What watches a training from outside the step: a limit on time without progress, and signals."""

import contextlib
import os
import signal
import sys
import threading
import time
import types
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from dlcore import processes
from dlcore.errors import TrainingError, UsageError


class Watchdog:
    """Ends the process when nothing has moved for too long, or when another of its run is lost.

    A collective whose peer hangs never returns and cannot be interrupted from Python, and what
    would be cleaned up on the way out waits for the peers too. So the process itself is ended, with
    one line that says where it stood.

    Args:
      limit: seconds without progress; 0 means no limit.
      advice: what to do next, for the message.
    """

    EXIT_CODE = 1

    def __init__(self, limit: float, advice: str = "") -> None:
        self._limit = limit
        self._advice = advice
        self._allowed = self._deadline = float("inf")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def progress(self, doing: str, patience: float = 1.0) -> None:
        """Something has moved, and `doing` comes next.

        Args:
          doing: for the message: "step 12", "the evaluation after step 12".
          patience: multiplies the limit for this once: a compilation takes longer than a step.
        """
        processes.at(doing)
        self._allowed = self._limit * patience
        self._deadline = time.monotonic() + self._allowed

    def _watch(self) -> None:
        interval = min(1.0, self._limit / 4)
        before = time.monotonic()
        while not self._closed.wait(interval):
            now = time.monotonic()
            # While this thread did not run either, the process was stopped or the machine asleep.
            self._deadline += max(now - before - 2 * interval, 0.0)
            before = now
            if now > self._deadline:
                processes.claim_last_words()
                several = jax.process_count() > 1
                cause = ", another process of this run is stuck, stopped or dead" if several else ""
                with contextlib.suppress(OSError):  # Nobody may be there to read it.
                    # A progress bar may have left the cursor inside a line.
                    print(
                        f"\nerror: at {processes.doing()}: no progress for {self._allowed:g} s"
                        f"{cause}; step_timeout sets the limit. {self._advice}",
                        file=sys.stderr,
                    )
                processes.leave(self.EXIT_CODE)

    def __enter__(self) -> Self:
        if self._limit:
            self._thread.start()
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        self._closed.set()
        # A verdict on the run is every process's; what else ends this one, the others do not know.
        verdict = isinstance(error, TrainingError | UsageError)
        if error is not None and not verdict and jax.process_count() > 1:
            processes.abandon(error, f"at {processes.doing()}: ")


class StopSignal:
    """SIGTERM, SIGINT or SIGHUP as a request to save and stop; further ones change nothing.

    Who presses Ctrl-C twice, and a scheduler that asks again, would lose what is being saved.
    SIGQUIT and SIGKILL end a process as ever.

    With several processes SIGTERM is left to JAX's preemption service: the schedulers of pods send
    it to any of them at any moment, and the service finds one step at which all can stop. The other
    signals are passed on to it.
    """

    _NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.name: str | None = None
        self._previous: dict[int, Any] = {}
        self._several = jax.process_count() > 1

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; the same on every process."""
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            self.name = "SIGTERM"
        return self.name is not None

    def __enter__(self) -> Self:
        # Python lets no other thread handle signals.
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in self._NUMBERS:
            # `nohup` asks for a training that outlives its terminal.
            outlives = number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
            if not outlives and not (self._several and number == signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, _: types.FrameType | None) -> None:
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.name is None:
            self.name = signal.Signals(number).name

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
