"""What watches a training from outside the step: a limit on time without progress, and the signals."""

import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any, Self

import jax


class Watchdog:
    """Ends the process when nothing has moved for too long.

    A collective whose peer hangs never returns and cannot be interrupted from Python, so the process
    itself is ended, with one line that says where it stood.

    Args:
      limit: seconds without progress; 0 means no limit.
      advice: what to do next, for the message.
    """

    EXIT_CODE = 1

    def __init__(self, limit: float, advice: str = "") -> None:
        self._limit = limit
        self._advice = advice
        self._doing = "starting"
        self._deadline = float("inf")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def progress(self, doing: str, patience: float = 1.0) -> None:
        """Something has moved, and `doing` comes next.

        Args:
          doing: for the message: "step 12", "evaluating".
          patience: multiplies the limit for this once: a compilation takes longer than a step.
        """
        self._doing = doing
        self._deadline = time.monotonic() + self._limit * patience

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit / 4)):
            if time.monotonic() > self._deadline:
                peers = " (a peer process may be stuck or dead)" if jax.process_count() > 1 else ""
                print(
                    f"error: no progress for {self._limit:g} s: stuck at {self._doing}{peers}; "
                    f"--step_timeout sets the limit. {self._advice}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(self.EXIT_CODE)

    def __enter__(self) -> Self:
        if self._limit:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._closed.set()


class StopSignal:
    """Turns SIGTERM and the first SIGINT into a request to save and stop.

    With several processes the schedulers of pods send SIGTERM to any of them at any moment; JAX's
    preemption service then agrees on one step at which all of them stop.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._previous: dict[int, Callable[..., Any] | int | None] = {}

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        self.name = signal.Signals(number).name
        # A second one ends the process at once, as if nothing were handled.
        signal.signal(number, signal.SIG_DFL)

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; the same on every process."""
        if jax.process_count() == 1:
            return self.name is not None
        from jax.experimental import multihost_utils

        if multihost_utils.reached_preemption_sync_point(step):
            self.name = "SIGTERM"
            return True
        return False

    def __enter__(self) -> Self:
        # With several processes SIGTERM belongs to JAX's preemption service.
        signals = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
