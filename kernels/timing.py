"""How long a call takes on this device, and how long it would take at least.

A time is the device's: one compiled program makes many calls, one after the other, on several sets
of inputs in turn, and the median of many runs of it counts.
"""

import dataclasses
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout

from kernels import dispatch

# Sets of inputs that a program goes through: together larger than a cache, where they are large.
ROTATION = 4

Call = Callable[[Any], Any]


class Directions(NamedTuple):
    """What is timed: functions of a set of arguments, forward, and forward and backward."""

    forward: Call
    both: Call


class Counts(NamedTuple):
    """Operations of matrix products, and bytes that cross the device's memory."""

    operations: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Effort:
    """How often: calls in a program, and runs of a program, of which the median counts."""

    calls: int
    runs: int


@dataclasses.dataclass(frozen=True)
class Script:
    """A peer in PyTorch: what `PRELUDE` is continued with, and the words that it takes.

    It prints for each name the seconds forward, and forward and backward.
    """

    text: str
    words: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A row of a table, not measured yet.

    Attributes:
      operation: whose table; "auto" looks there.
      shape: the sizes by which rows are told apart.
      dtype: of the call.
      draw: the arguments of a seed.
      implementations: by name, for "auto" to choose from; of several ways the fastest one counts.
      peers: what they are compared with.
      counts: what the call takes at least: forward, and forward and backward.
      copied: of the arguments the array whose copy the call is compared with, or None.
      script: of PyTorch's peers, or None.
    """

    operation: str
    shape: Mapping[str, int]
    dtype: str
    draw: Callable[[int], Any]
    implementations: Mapping[str, Sequence[Directions]]
    peers: Mapping[str, Directions]
    counts: tuple[Counts, Counts]
    copied: Callable[[Any], jax.Array] | None = None
    script: Script | None = None

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.shape.values()))
        return f"{self.operation} {sizes} {self.dtype}"


class Peak(NamedTuple):
    """What a device can do at most, by its data sheet: operations and bytes per second."""

    bfloat16: float
    float32: float
    bandwidth: float


# Matrix products in float32: of a GPU's TensorFloat-32, of a TPU's six passes in bfloat16.
PEAKS = {
    "NVIDIA H200": Peak(989e12, 495e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": Peak(989e12, 495e12, 3.35e12),
    "TPU v5 lite": Peak(197e12, 197e12 / 6, 0.819e12),
    "TPU v6 lite": Peak(918e12, 918e12 / 6, 1.64e12),
}

PRELUDE = """
import json, sys, time, torch
*words, calls, runs = json.loads(sys.argv[1])
device = "cuda" if torch.cuda.is_available() else "cpu"
wait = torch.cuda.synchronize if device == "cuda" else lambda: None

def seconds(call, inputs):
    for _ in range(3):
        call(inputs[0])
    times = []
    for _ in range(runs):
        wait()
        begin = time.perf_counter()
        for number in range(calls):
            call(inputs[number % len(inputs)])
        wait()
        times.append((time.perf_counter() - begin) / calls)
    return sorted(times)[len(times) // 2]
"""


def positive_integer(word: str) -> int:
    """A size or a count of the command line; raises ValueError where it is below one."""
    if (number := int(word)) < 1:
        raise ValueError(f"{word!r}: at least 1")
    return number


def measure(subject: Subject, effort: Effort, torch: str = "") -> dict[str, Any]:
    """A row of a table: seconds by implementation and peer, forward, and forward and backward.

    Also the counts, and which share of the roofline the fastest implementation reaches; where
    something is copied, also its share of the copy's bandwidth.

    Args:
      subject: what is measured.
      effort: how often.
      torch: a Python that has PyTorch, or nothing.
    """
    drawn = [subject.draw(seed) for seed in range(ROTATION)]
    ways = {**subject.implementations, **{name: [peer] for name, peer in subject.peers.items()}}
    taken: list[dict[str, float]] = [
        {
            name: min(seconds(several[direction], drawn, effort) for several in alternatives)
            for name, alternatives in ways.items()
        }
        for direction in range(2)
    ]
    fastest = [min(times[name] for name in subject.implementations) for times in taken]
    told = [
        against_roofline(counted, subject.dtype, least)
        for counted, least in zip(subject.counts, fastest, strict=True)
    ]
    if subject.copied:
        bandwidth = copy_bandwidth([subject.copied(arguments) for arguments in drawn], effort)
        for counted, least, direction in zip(subject.counts, fastest, told, strict=True):
            direction["share_of_copy"] = counted.bytes / least / bandwidth
    if torch and subject.script:
        for name, pair in torch_seconds(torch, subject.script, effort).items():
            for times, second in zip(taken, pair, strict=True):
                times[name] = second
    return {
        "shape": dict(subject.shape),
        "dtype": subject.dtype,
        "seconds": taken[1],
        "forward_seconds": taken[0],
        "forward": told[0],
        "forward_and_backward": told[1],
    }


def seconds(call: Call, sets: Sequence[Any], effort: Effort) -> float:
    """Seconds of a call on the device, on each set of arguments in turn."""
    rounds = -(-effort.calls // len(sets))
    shapes = jax.eval_shape(call, sets[0])

    def first() -> Any:
        def zeros(array: jax.ShapeDtypeStruct) -> jax.Array:
            return jnp.zeros(array.shape, array.dtype)

        return jnp.int32(0), [jax.tree.map(zeros, shapes) for _ in sets]

    run = repeated(call, rounds).lower(jax.eval_shape(first), sets).compile()
    (state_formats, set_formats), _ = run.input_formats
    state = jax.jit(first, out_shardings=state_formats)()
    sets = jax.device_put(sets, set_formats)
    state = jax.block_until_ready(run(state, sets))
    times = []
    for _ in range(effort.runs):
        begin = time.perf_counter()
        state = jax.block_until_ready(run(state, sets))
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / (rounds * len(sets))


def repeated(call: Call, rounds: int) -> Any:
    """The program that is timed: the call on one set of arguments after the other, in rounds.

    It takes and gives a token and the results of a round. The sets are arrays of their own: cut out
    of a larger one, they would be copied for a kernel. They lie as the program likes them best, as
    they would within a network. The results are kept: else a TPU would leave them in its vector
    memory. The token goes through barriers, without which XLA would see that a round repeats the
    one before, or join calls.

    Returns:
      A function to be lowered and compiled.
    """

    def turn(state: Any, sets: Sequence[Any]) -> Any:
        token, results = state[0], []
        for arguments in sets:
            arguments, token = jax.lax.optimization_barrier((arguments, token))
            result, token = jax.lax.optimization_barrier((call(arguments), token))
            results.append(result)
        return token, results

    def program(state: Any, sets: Sequence[Any]) -> Any:
        return jax.lax.fori_loop(0, rounds, lambda _, state: turn(state, sets), state)

    any_layout = Format(Layout.AUTO)
    return jax.jit(program, donate_argnums=0, in_shardings=any_layout, out_shardings=any_layout)


def copy_bandwidth(arrays: Sequence[jax.Array], effort: Effort) -> float:
    """Bytes read and written a second while arrays are copied.

    The copies have the other sign: XLA would leave a plain copy out.
    """
    return 2 * arrays[0].nbytes / seconds(jnp.negative, arrays, effort)


def against_roofline(counted: Counts, dtype: str, taken: float) -> dict[str, Any]:
    """The counts, and the least time that they allow as a share of the time that was taken."""
    peak = PEAKS.get(dispatch.device_kind())
    share = None
    if peak:
        least = max(counted.operations / getattr(peak, dtype), counted.bytes / peak.bandwidth)
        share = least / taken
    return {**counted._asdict(), "share_of_roofline": share}


def torch_refusal(python: str) -> str | None:
    """Why this Python cannot measure PyTorch's peers, or None."""
    try:
        done = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    except OSError as error:
        return f"{python!r} does not start: {error.strerror}"
    if done.returncode:
        return f"{python!r} has no PyTorch: {done.stderr.strip().rpartition('\n')[2]}"
    return None


def torch_seconds(python: str, script: Script, effort: Effort) -> dict[str, list[float]]:
    """What a PyTorch script measures in a process of its own: by name, forward and both.

    These times hold what its host needs to start the work, where the device waits for that.
    """
    words = json.dumps([*script.words, effort.calls, effort.runs])
    command = [python, "-c", PRELUDE + script.text, words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"PyTorch in {python}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)
