"""Which implementation of an operation serves a call, and why.

"auto" picks the fastest one that was measured on this kind of device for the nearest shape, and
XLA where nothing was measured. A named one serves what it can and refuses the rest. A call names
one by its own `implementation` argument; where that is None, the context (`using`) decides.
"""

import contextlib
import contextvars
import dataclasses
import functools
import json
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

# What a call or a context may name. ("reference" defines what is right; it is not fast.)
NAMES = ("auto", "reference", "xla", "mosaic_gpu", "mosaic_tpu")
_KINDS = {"mosaic_gpu": "gpu", "mosaic_tpu": "tpu"}
# Of the names of NVIDIA's devices.
_HOPPER = re.compile(r"\bG?H(20|100|200|800)\b")
# The vector memory of a TPU's core in MiB; others are taken to have what a v5p has.
_VMEM = {"tpu": 128, "TPU v5 lite": 128, "TPU v6 lite": 128}
_LEAST_VMEM = 64

# JAX's own contexts: a jitted function is traced anew where their value is another one.
_target = jax.make_user_context("")
_implementation = jax.make_user_context("auto")


class RefusedError(ValueError):
    """A named implementation is unknown, or cannot serve a call; the message says why."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Who serves a call.

    Attributes:
      operation: what is called, by the name of its measurements: "lstm".
      implementation: who serves it: "xla".
      reason: why that one.
    """

    operation: str
    implementation: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Record:
    """What `using` yields.

    Attributes:
      choices: one for every call that was traced within, in their order. A jitted function that was
        traced before, under the same name, is not traced again and adds none.
    """

    choices: list[Choice] = dataclasses.field(default_factory=list)


_records: contextvars.ContextVar[tuple[Record, ...]] = contextvars.ContextVar("records", default=())


@contextlib.contextmanager
def using(implementation: str) -> Iterator[Record]:
    """Within, calls that name no implementation themselves are by this one.

    What counts is where a call is traced; its gradient is by the same implementation wherever it is
    taken. Contexts nest, and hold for one thread.

    Args:
      implementation: one of `NAMES`.

    Raises:
      RefusedError: there is no such implementation.
    """
    if implementation not in NAMES:
        raise RefusedError(_unknown(implementation, NAMES[1:]))
    within = Record()
    token = _records.set((*_records.get(), within))
    try:
        with _implementation(implementation):
            yield within
    finally:
        _records.reset(token)


def requested(implementation: str | None) -> str:
    """The implementation that a call names, or the context's where it names none."""
    return _implementation.value if implementation is None else implementation


def record(choice: Choice) -> Choice:
    """Adds a choice to the records of all contexts that it is made in."""
    for around in _records.get():
        around.choices.append(choice)
    return choice


@contextlib.contextmanager
def target(device_kind: str) -> Iterator[None]:
    """Within, calls are for that kind of device, whatever this machine has.

    For compiling ahead of time, and for interpretation: "tpu" and "gpu" are kinds, too.
    """
    with _target(device_kind):
        yield


def device_kind() -> str:
    """The kind of device that calls are for: "NVIDIA H200", "TPU v5 lite", "cpu"."""
    return _target.value or jax.devices()[0].device_kind


def platform(kind: str) -> str:
    """What a kind of device belongs to: "gpu", "tpu" or "cpu"."""
    for word, name in (("tpu", "tpu"), ("nvidia", "gpu"), ("gpu", "gpu")):
        if kind.lower().startswith(word):
            return name
    return "cpu"


def vmem_bytes() -> int:
    """Bytes of a TPU's vector memory for a kernel to take: the compiler has the last quarter."""
    return _VMEM.get(device_kind(), _LEAST_VMEM) * 2**20 * 3 // 4


def explain(refusals: Mapping[str, str | None]) -> dict[str, str]:
    """For each implementation "serves", or why it does not serve a call on this device.

    Args:
      refusals: for each implementation why it cannot serve the call anywhere, or None.
    """
    kind = device_kind()
    return {
        name: _elsewhere(name, kind) or refusal or "serves" for name, refusal in refusals.items()
    }


def _elsewhere(name: str, kind: str) -> str | None:
    """Why an implementation is for other devices, or None."""
    needed = _KINDS.get(name, platform(kind))
    if needed != platform(kind):
        return f"it needs a {needed.upper()}, not {kind}"
    if name == "mosaic_gpu" and kind != "gpu" and not _HOPPER.search(kind):
        return f"it needs a Hopper GPU, not {kind}"
    return None


def choose(
    operation: str,
    implementation: str | None,
    refusals: Mapping[str, str | None],
    shape: Mapping[str, int],
    dtype: Any,
    *,
    substitute: str = "",
) -> Choice:
    """Who serves a call. The choice is not recorded yet: `record` does that.

    Args:
      operation: whose measurements count: "lstm".
      implementation: one of `NAMES`; None for the context's.
      refusals: as for `explain`.
      shape: the sizes by which the measurements are told apart.
      dtype: of the call.
      substitute: who serves what the named one has no kernel for on its own devices; by default
        such a call is refused.

    Raises:
      RefusedError: no such implementation, or it cannot serve the call.
    """
    implementation = requested(implementation)
    told = explain(refusals)
    if implementation == "auto":
        return _measured(operation, told, shape, dtype)
    if implementation not in told:
        raise RefusedError(_unknown(implementation, told))
    if told[implementation] == "serves":
        return Choice(operation, implementation, "named")
    if substitute and not _elsewhere(implementation, device_kind()):
        reason = f"{implementation} has no kernel: {told[implementation]}"
        return Choice(operation, substitute, reason)
    raise RefusedError(f"{operation}: {implementation} cannot serve: {told[implementation]}")


def _unknown(implementation: str, known: Iterable[str]) -> str:
    return f"unknown implementation {implementation!r}: it is auto or one of {', '.join(known)}"


def _measured(
    operation: str, told: Mapping[str, str], shape: Mapping[str, int], dtype: Any
) -> Choice:
    """What "auto" picks among those that serve."""
    kind = device_kind()
    row = nearest(operation, shape, dtype)
    if row is None:
        return Choice(operation, "xla", f"nothing was measured on {kind} for {dtype}")
    seconds = {name: time for name, time in row["seconds"].items() if name in told}
    able = {name: time for name, time in seconds.items() if told[name] == "serves"}
    name = min(able, key=able.__getitem__, default="xla")
    passed_over = [
        f"; not {other}, which is faster: {told[other]}"
        for other, time in seconds.items()
        if time < seconds.get(name, math.inf)
    ]
    reason = f"the fastest that serves, measured on {kind} at {row['shape']}"
    return Choice(operation, name, reason + "".join(passed_over))


def nearest(operation: str, shape: Mapping[str, int], dtype: Any) -> dict[str, Any] | None:
    """The row of the measurements on this kind of device that counts for a call, if any."""
    rows = [row for row in measurements(operation, device_kind()) if row["dtype"] == str(dtype)]
    return min(rows, key=lambda row: _distance(row["shape"], shape), default=None)


def _distance(measured: Mapping[str, int], shape: Mapping[str, int]) -> float:
    return sum(abs(math.log(measured[axis] / max(size, 1))) for axis, size in shape.items())


@functools.cache
def measurements(operation: str, kind: str) -> list[dict[str, Any]]:
    """What `python -m kernels.bench` wrote: "shape", "dtype" and "seconds" by implementation."""
    name = kind.lower().replace(" ", "_")
    path = pathlib.Path(__file__).parent / "measured" / f"{operation}_{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
