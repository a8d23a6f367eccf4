"""Batches made and placed on the devices ahead of the step that needs them."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_PATIENCE = 10.0


class Prefetch[Placed](Iterator[Placed]):
    """What `prefetch` returns: an iterator that owns a thread until it ends or is closed."""

    def __init__(self, produce: Callable[[], Placed], size: int):
        self._queue: queue.Queue[tuple[Placed | None, BaseException | None]] = queue.Queue(size)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=_run, args=(produce, self._queue, self._stopped), daemon=True, name="prefetch"
        )
        self._thread.start()

    def __next__(self) -> Placed:
        if self._stopped.is_set():
            raise StopIteration
        item, error = self._queue.get()
        if error is not None:
            self.close()
            raise error
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """Ends the thread; what it has prepared is dropped. May be called again.

        A thread that is stuck in a read is left behind after some seconds: it is a daemon.
        """
        self._stopped.set()
        deadline = time.monotonic() + _PATIENCE
        while self._thread.is_alive() and time.monotonic() < deadline:
            # The thread may be waiting for room.
            while not self._queue.empty():
                self._queue.get()
            self._thread.join(timeout=0.01)

    def __enter__(self) -> "Prefetch[Placed]":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def _run(produce: Callable[[], Any], items: queue.Queue, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            items.put((produce(), None))
        except BaseException as error:  # The consumer raises it.
            items.put((None, error))
            return


def prefetch[Item, Placed](
    iterator: Iterator[Item], place: Callable[[Item], Placed], size: int = 2
) -> Prefetch[Placed]:
    """Runs `place(next(iterator))` ahead in a thread.

    Args:
      iterator: of host batches.
      place: puts one on the devices.
      size: how many placed batches may wait.

    Returns:
      The placed batches in order. What the iterator or `place` raises is raised where it would have
      been without the thread. `close()`, or leaving its `with` block, ends the thread.
    """
    return Prefetch(lambda: place(next(iterator)), size)
