"""Where metrics go: `metrics.jsonl` is the truth, TensorBoard stands beside it."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlcore.errors import TrainingError


class JsonLines:
    """One JSON object a line, unbuffered.

    The file holds nothing that differs between two equal runs (no time of day, no speed), so that a
    resumed run leaves the same bytes as one that was never stopped.

    Args:
      path: the file; appended to.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def position(self) -> int:
        """Bytes written so far: what `cut` takes to come back here."""
        return self._file.tell()

    def cut(self, position: int) -> None:
        """Forgets every line after `position`, which a resumed run will write again."""
        self._file.truncate(min(position, self.path.stat().st_size))
        self._file.seek(0, 2)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record; arrays are left out, non-finite numbers become null.

        Raises:
          TrainingError: it cannot be written, as where the disk is full.
        """
        plain = {key: _plain(value) for key, value in record.items() if np.ndim(value) == 0}
        line = json.dumps(plain, allow_nan=False).encode() + b"\n"
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


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a file of `JsonLines`; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


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

    Args:
      directory: of the event files.
      step: after which this part of the run begins; what is there of later steps is hidden.
    """

    def __init__(self, directory: pathlib.Path, step: int) -> None:
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(str(directory), purge_step=step + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes a record's finite numbers under `split/name` at its step."""
        for name, value in record.items():
            number = isinstance(value, int | float) and math.isfinite(value)
            if name not in ("step", "split") and number:
                self._writer.add_scalar(f"{record['split']}/{name}", value, record["step"])

    def close(self) -> None:
        """Writes what is buffered and closes the file."""
        self._writer.close()
