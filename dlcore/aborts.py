"""One line in the place of dozens, where native code ends a process because another one is lost.

JAX's distributed service and Gloo end a process by SIGABRT, from threads of their own; no handler
of Python's runs then. So what native code writes to standard error goes through a pipe, and is
shown a moment later, unless it turns out to lead to such an end.
"""

import atexit
import contextlib
import ctypes
import io
import logging
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

# What they write first.
_LOSS = re.compile(
    rb"JAX distributed service detected fatal errors"
    rb"|terminate called after throwing an instance of 'gloo::"
)
# For so long is a line held back: those that lead to an end come within milliseconds of it.
_MOMENT = 1.0


def translate(end: Callable[[], NoReturn]) -> None:
    """Has the loss of another process end this one by a function of ours; call it once.

    Args:
      end: says a line and ends the process; it is called from another thread.
    """
    source, sink = os.pipe()
    shown = os.dup(2)
    os.dup2(sink, 2)
    os.close(sink)
    _keep_python_direct(shown)
    # The thread that aborts has to wait until the line is said, in a handler of C that is safe in
    # any state. This one gets the number of the signal, and sleeps for so many seconds: six.
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = (ctypes.c_int, ctypes.c_void_p), None
    library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))
    holding = threading.Event()
    threading.Thread(target=_relay, args=(source, shown, holding, end), daemon=True).start()
    atexit.register(_drain, source, holding)


def _keep_python_direct(shown: int) -> None:
    """Lets what Python writes pass by the pipe: it would be lost where the process ends itself."""
    before = sys.stderr
    if not isinstance(before, io.TextIOWrapper) or before is not sys.__stderr__:  # A notebook.
        return
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(shown, "w", closefd=False)),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=True,
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(sys.stderr)


def _drain(source: int, holding: threading.Event) -> None:
    """Waits until what was written is shown, where a process ends as usual."""
    last = time.monotonic() + 2 * _MOMENT
    while (select.select([source], [], [], 0)[0] or holding.is_set()) and time.monotonic() < last:
        time.sleep(0.01)


def _relay(source: int, shown: int, holding: threading.Event, end: Callable[[], NoReturn]) -> None:
    held, since = b"", 0.0
    while True:
        left = max(since + _MOMENT - time.monotonic(), 0.0) if held else None
        if select.select([source], [], [], left)[0]:
            holding.set()
            since = since if held else time.monotonic()
            held += os.read(source, 1 << 16)
            if _LOSS.search(held):
                end()
        if held and time.monotonic() >= since + _MOMENT:
            with contextlib.suppress(OSError):  # Nobody may be there to read it.
                os.write(shown, held)
            held = b""
            holding.clear()
