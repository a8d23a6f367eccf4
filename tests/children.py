"""Python programs in processes of their own: every wait has a limit, and none is left behind."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).parents[1]
# What a start, compilation included, may take on a machine that is busy with other tests.
START_LIMIT = 240.0


class Child:
    """A running Python program.

    Args:
      words: what follows `python` on its command line.
      log: file for its output and errors.
      devices: how many virtual CPU devices it has.
    """

    def __init__(self, words: tuple[str, ...], log: pathlib.Path, devices: int) -> None:
        self._log = log
        self._environment = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Returns when the condition holds; fails where the program ends before."""
        deadline = time.monotonic() + START_LIMIT
        while not condition():
            assert self._process.poll() is None, f"it ended too soon:\n{self.output}"
            assert time.monotonic() < deadline, f"it got no further than:\n{self.output}"
            time.sleep(0.05)

    def exit_code(self, limit: float = START_LIMIT) -> int:
        """Waits for its end, at most so many seconds; negative where a signal ended it."""
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {limit} s:\n{self.output}") from None

    def end(self) -> None:
        """Ends it, whatever it is doing."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def running(
    directory: pathlib.Path, *commands: tuple[str, ...], devices: int = 1
) -> Iterator[list[Child]]:
    """Starts programs side by side; those that still run at the end of the block are ended.

    Args:
      directory: for their logs.
      commands: what follows `python` on each one's command line.
      devices: how many virtual CPU devices each has.
    """
    started: list[Child] = []
    try:
        for index, words in enumerate(commands):
            log = directory / f"{len(list(directory.glob('*.log')))}-{index}.log"
            started.append(Child(words, log, devices))
        yield started
    finally:
        for child in started:
            child.end()


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
