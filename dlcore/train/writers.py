"""Where metrics go: `metrics.jsonl` is the truth, TensorBoard stands beside it."""

import contextlib
import json
import logging
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from dlcore.errors import TrainingError, UsageError

_log = logging.getLogger(__name__)

# How long TensorBoard may wait for a number.
_FLUSH_SECONDS = 10.0


class JsonLines:
    """One JSON object a line, unbuffered.

    The file holds nothing that differs between two equal runs (no time of day, no speed), so that a
    resumed run leaves the same bytes as one that was never stopped.

    Args:
      path: the file; appended to.

    Raises:
      UsageError: it cannot be written.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error

    def position(self) -> int:
        """Bytes written so far, and safe from a loss of power: what `cut` takes to come back."""
        with contextlib.suppress(OSError):  # Of a device: it has nothing to keep.
            os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, position: int) -> None:
        """Forgets every record after `position`, which a resumed run will write again.

        Where the file is shorter, or a line before is no record, as a loss of power leaves it, what
        follows the last whole record goes, too, and a line says so.
        """
        records, whole = _whole_records(self.path.read_bytes()[:position])
        if whole < position:
            _log.warning("%s: all but the first %d records are lost", self.path, len(records))
        self._file.truncate(whole)
        self._file.seek(0, 2)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record; arrays are left out, non-finite numbers become null.

        Raises:
          TrainingError: it cannot be written, as where the disk is full.
        """
        single = {key: value for key, value in record.items() if np.ndim(value) == 0}
        line = json.dumps(plain(single), allow_nan=False).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise TrainingError(
                f"step {record['step']}: {self.path} could not be written: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def plain(content: Any) -> Any:
    """The content as JSON can hold it: None for numbers that are not finite."""
    if isinstance(content, Mapping):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a file of `JsonLines`, up to the first line that is none; no file has none."""
    if not path.exists():
        return []
    content = path.read_bytes()
    records, whole = _whole_records(content)
    if whole < len(content):
        _log.warning("%s: line %d is no record: read up to there", path, len(records) + 1)
    return records


def _whole_records(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The records at the beginning of a file, and how many bytes they take."""
    records: list[dict[str, Any]] = []
    position = 0
    for line in content.splitlines(keepends=True):
        try:
            record = msgspec.json.decode(line, type=dict[str, str | int | float | None])
        except (ValueError, RecursionError):
            break
        numbers = [value for name, value in record.items() if name != "split"]
        named = isinstance(record.get("split"), str) and isinstance(record.get("step"), int)
        if not line.endswith(b"\n") or not named or any(isinstance(n, str) for n in numbers):
            break
        records.append(record)
        position += len(line)
    return records, position


def columns(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Every number of some records, float64 arrays `[records]` by split and name.

    Rows of a split align: `["validation"]["accuracy"]` goes with `["validation"]["step"]` and
    `["epoch"]`. What is missing or was not finite is NaN.
    """
    splits: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        splits.setdefault(record["split"], []).append(record)
    return {split: _columns(own) for split, own in splits.items()}


def _columns(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for record in records for name in record if name != "split")
    return {
        name: np.asarray(
            [math.nan if record.get(name) is None else record[name] for record in records],
            np.float64,
        )
        for name in names
    }


class TensorBoard:
    """Scalars as TensorBoard events, written without TensorFlow.

    It stands beside `metrics.jsonl`: where it cannot be written, a line says so, and that is all.

    Args:
      directory: of the event files.
      step: after which this part of the run begins; what is there of later steps is hidden.
    """

    def __init__(self, directory: pathlib.Path, step: int) -> None:
        self._directory = directory
        self._events: Any = None
        self._flushed = 0.0
        with self._borne():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2

            directory.mkdir(exist_ok=True)
            # Writes at once: tensorboardX's own queue blocks for ever when its thread has failed.
            self._events = EventsWriter(str(directory / "events"), f".{step}")
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step + 1, session_log=start)

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes a record's finite numbers under `split/name` at its step."""
        from tensorboardX.proto import summary_pb2

        values = [
            summary_pb2.Summary.Value(tag=f"{record['split']}/{name}", simple_value=value)
            for name, value in record.items()
            if name not in ("step", "split")
            and isinstance(value, int | float)
            and math.isfinite(value)
        ]
        with self._borne():
            self._write(record["step"], summary=summary_pb2.Summary(value=values))

    def close(self) -> None:
        """Closes the file."""
        with self._borne():
            if self._events:
                self._events.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto import event_pb2

        if self._events:
            now = time.time()
            self._events.write_event(event_pb2.Event(wall_time=now, step=step, **content))
            if now > self._flushed + _FLUSH_SECONDS:
                self._events.flush()
                self._flushed = now

    @contextlib.contextmanager
    def _borne(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._events = None
            _log.warning("no more TensorBoard events in %s: %s", self._directory, error.strerror)
