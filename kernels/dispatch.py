"""Which implementation of an operation serves a call, and why.

"auto" picks the fastest one that was measured on this kind of device for the nearest shape, and
XLA where nothing was measured. A named one serves what it can and refuses the rest.
"""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

_KINDS = {"mosaic_gpu": "gpu", "mosaic_tpu": "tpu"}
_target: str | None = None


class RefusedError(ValueError):
    """A named implementation is unknown, or cannot serve a call; the message says why."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """An implementation and the reason for it."""

    name: str
    reason: str


@contextlib.contextmanager
def target(device_kind: str) -> Iterator[None]:
    """Within, calls are for that kind of device, whatever this machine has.

    For compiling ahead of time, and for interpretation: "tpu" and "gpu" are kinds, too.
    """
    global _target
    previous, _target = _target, device_kind
    try:
        yield
    finally:
        _target = previous


def device_kind() -> str:
    """The kind of device that calls are for: "NVIDIA H200", "TPU v5 lite", "cpu"."""
    return _target or jax.devices()[0].device_kind


def platform(kind: str) -> str:
    """What a kind of device belongs to: "gpu", "tpu" or "cpu"."""
    for word, name in (("tpu", "tpu"), ("nvidia", "gpu"), ("gpu", "gpu")):
        if kind.lower().startswith(word):
            return name
    return "cpu"


def explain(refusals: Mapping[str, str | None]) -> dict[str, str]:
    """For each implementation "serves", or why it does not serve a call on this device.

    Args:
      refusals: for each implementation why it cannot serve the call anywhere, or None.
    """
    kind = device_kind()
    told = {}
    for name, refusal in refusals.items():
        needed = _KINDS.get(name, platform(kind))
        elsewhere = None if needed == platform(kind) else f"it needs a {needed.upper()}, not {kind}"
        told[name] = elsewhere or refusal or "serves"
    return told


def choose(
    operation: str,
    implementation: str,
    refusals: Mapping[str, str | None],
    shape: Mapping[str, int],
    dtype: Any,
) -> Choice:
    """The implementation that serves a call.

    Args:
      operation: whose measurements count: "lstm".
      implementation: "auto", or a name.
      refusals: as for `explain`.
      shape: the sizes by which the measurements are told apart.
      dtype: of the call.

    Raises:
      RefusedError: no such implementation, or it cannot serve the call.
    """
    told = explain(refusals)
    if implementation != "auto":
        if implementation not in told:
            raise RefusedError(
                f"unknown implementation {implementation!r}: it is auto or one of {', '.join(told)}"
            )
        if told[implementation] != "serves":
            raise RefusedError(
                f"{operation}: {implementation} cannot serve: {told[implementation]}"
            )
        return Choice(implementation, "named")
    kind = device_kind()
    measured = [row for row in measurements(operation, kind) if row["dtype"] == str(dtype)]
    if not measured:
        return Choice("xla", f"nothing was measured on {kind} for {dtype}")
    nearest = min(measured, key=lambda row: _distance(row["shape"], shape))
    able = {name: time for name, time in nearest["seconds"].items() if told.get(name) == "serves"}
    name = min(able, key=able.__getitem__, default="xla")
    return Choice(name, f"the fastest that serves, measured on {kind} at {nearest['shape']}")


def _distance(measured: Mapping[str, int], shape: Mapping[str, int]) -> float:
    return sum(abs(math.log(measured[axis] / max(size, 1))) for axis, size in shape.items())


@functools.cache
def measurements(operation: str, kind: str) -> list[dict[str, Any]]:
    """What `python -m kernels.bench` wrote: "shape", "dtype" and "seconds" by implementation."""
    name = kind.lower().replace(" ", "_")
    path = pathlib.Path(__file__).parent / "measured" / f"{operation}_{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []
