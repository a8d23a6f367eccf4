"""Times the implementations of an operation on this device: `python -m kernels.bench`.

For each shape and dtype the implementations that serve are first proved right on the device, by the
measure of the tests; one that is wrong ends the run. Then they are timed, forward, and forward and
backward, against peers: a plain `lax.scan`, JAX's cuDNN LSTM (float32), and PyTorch's where
`--torch` names a Python that has it. A time is the device's: one compiled program makes many calls,
one after the other, on inputs that rotate, and the median of many runs of it counts.

The table is printed, and written row by row to `kernels/measured/OPERATION_DEVICE.json`, by which
"auto" chooses; rows of other shapes stay as they were. Seconds are those of one call.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import rnn

from kernels import dispatch, testing
from kernels.lstm import Params, State, cases, convert, lstm, steps
from kernels.lstm import dispatch as lstm_dispatch

DIRECTORY = pathlib.Path(__file__).parent / "measured"
# Batch, time, units; inputs are as wide as the state.
SHAPES = tuple(itertools.product((1, 16, 64, 256), (35, 128, 512), (64, 128, 256, 512, 1024, 2048)))
DTYPES = ("bfloat16", "float32")
# Sets of inputs that a program goes through: together larger than a cache, where they are large.
ROTATION = 4


Call = Callable[[cases.Arguments], Any]


class Peak(NamedTuple):
    """What a device can do at most, by its data sheet: operations and bytes a second."""

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

_TORCH = """
import json, sys, time, torch
batch, steps, features, hidden, dtype, calls, runs = json.loads(sys.argv[1])
device = "cuda" if torch.cuda.is_available() else "cpu"
options = {"device": device, "dtype": getattr(torch, dtype)}
layer = torch.nn.LSTM(features, hidden, batch_first=True, **options)
inputs = [torch.randn(batch, steps, features, requires_grad=True, **options) for _ in range(4)]
cotangent = torch.randn(batch, steps, hidden, **options)
wait = torch.cuda.synchronize if device == "cuda" else lambda: None

def forward(x):
    with torch.no_grad():
        layer(x)

def both(x):
    layer(x)[0].backward(cotangent)

def seconds(call):
    call(inputs[0])
    times = []
    for _ in range(runs):
        wait()
        begin = time.perf_counter()
        for number in range(calls):
            call(inputs[number % 4])
        wait()
        times.append((time.perf_counter() - begin) / calls)
    return sorted(times)[len(times) // 2]

print(json.dumps([seconds(forward), seconds(both)]))
"""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How often: calls in a program, and runs of a program, of which the median counts."""

    calls: int
    runs: int


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--operation", default="lstm", choices=["lstm"])
    parser.add_argument("--shapes", type=_shapes, default=SHAPES, help="as in 16x35x128,64x35x128")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--torch", default="", help="a Python that has PyTorch")
    parser.add_argument("--directory", type=pathlib.Path, default=DIRECTORY)
    parser.add_argument("--calls", type=int, default=16, help="in a compiled program")
    parser.add_argument("--runs", type=int, default=11, help="of a program; the median counts")
    options = parser.parse_args(argv)
    kind = jax.devices()[0].device_kind
    path = options.directory / f"{options.operation}_{kind.lower().replace(' ', '_')}.json"
    for (batch, length, hidden), dtype in itertools.product(options.shapes, options.dtypes):
        case = cases.Case(batch, length, hidden, hidden, dtype)
        try:
            row = measure(case, Effort(options.calls, options.runs), options.torch)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"{case}: does not fit in the device's memory", flush=True)
            continue
        write(path, kind, row)
        print(line(row), flush=True)


def write(path: pathlib.Path, kind: str, row: dict[str, Any]) -> None:
    """Puts a row into a device's table, in the place of what was measured for it before."""
    table = json.loads(path.read_text()) if path.exists() else {"rows": []}
    key = (row["shape"], row["dtype"])
    rows = [old for old in table["rows"] if (old["shape"], old["dtype"]) != key]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"device": kind, "jax": jax.__version__, "rows": [*rows, row]}
    path.write_text(json.dumps(table, indent=1) + "\n")


def _shapes(text: str) -> list[tuple[int, ...]]:
    shapes = [tuple(map(int, word.split("x"))) for word in text.split(",")]
    if any(len(shape) != 3 for shape in shapes):
        raise argparse.ArgumentTypeError(f"{text!r}: batch, time and units, as in 16x35x128")
    return shapes


def measure(case: cases.Case, effort: Effort, torch: str = "") -> dict[str, Any]:
    """A row of the table: seconds by implementation and peer, forward and with the backward pass.

    Also operations, bytes, and the share of the roofline that the fastest implementation reaches.

    Raises:
      AssertionError: an implementation is wrong on this device.
    """
    told = dispatch.explain(lstm_dispatch.refusals(case.batch, case.time, case.hidden, case.dtype))
    # The reference is what is right, not what is fast.
    names = [name for name, word in told.items() if word == "serves" and name != "reference"]
    prove(case, names)
    calls: dict[str, tuple[Call, Call]] = {name: _implementation(case, name) for name in names}
    calls["scan"] = _peer(scan)
    if case.dtype == "float32" and dispatch.platform(dispatch.device_kind()) == "gpu":
        calls["cudnn"] = _peer(cudnn)
    drawn = [cases.draw(case, seed) for seed in range(ROTATION)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *drawn)
    forward = {name: seconds(call, stacked, effort) for name, (call, _) in calls.items()}
    both = {name: seconds(call, stacked, effort) for name, (_, call) in calls.items()}
    if torch:
        forward["torch"], both["torch"] = _torch_seconds(torch, case, effort)
    fastest = [min(taken[name] for name in names) for taken in (forward, both)]
    return {
        "shape": {"batch": case.batch, "time": case.time, "hidden": case.hidden},
        "dtype": case.dtype,
        "seconds": both,
        "forward_seconds": forward,
        "forward": _against_roofline(case, fastest[0], backward=False),
        "forward_and_backward": _against_roofline(case, fastest[1], backward=True),
    }


def prove(case: cases.Case, names: Sequence[str]) -> None:
    """Asserts that the implementations are right on this device, on a short call of that width."""
    short = dataclasses.replace(
        case, batch=min(case.batch, 32), time=min(case.time, 20), state=True, ragged=True
    )
    arguments = cases.draw(short)
    right = cases.right(short, arguments)
    xla = cases.call(short, arguments, "xla")
    for name in names:
        result = cases.call(short, arguments, name)
        testing.assert_as_right_as_xla(result, xla, right, case.dtype)


def counts(case: cases.Case, backward: bool) -> dict[str, int]:
    """Operations of the matrix products, and bytes that cross the memory whoever computes it.

    Forward these are the inputs, the parameters and the outputs. The backward pass has two products
    for each of the forward pass's; it reads the inputs and parameters again, and the outputs'
    cotangents, and writes the cotangents of the inputs and the parameters.
    """
    features, hidden = case.features, case.hidden
    rows, size = case.batch * case.time, jnp.dtype(case.dtype).itemsize
    parameters = 4 * hidden * (features + hidden + 1)
    operations = 2 * rows * 4 * hidden * (features + hidden)
    numbers = rows * (features + hidden) + parameters
    if not backward:
        return {"operations": operations, "bytes": size * numbers}
    return {
        "operations": 3 * operations,
        "bytes": size * (numbers + rows * (2 * features + hidden) + 2 * parameters),
    }


def _against_roofline(case: cases.Case, taken: float, backward: bool) -> dict[str, Any]:
    counted = counts(case, backward)
    peak = PEAKS.get(dispatch.device_kind())
    if not peak:
        return {**counted, "share_of_roofline": None}
    least = max(
        counted["operations"] / getattr(peak, case.dtype), counted["bytes"] / peak.bandwidth
    )
    return {**counted, "share_of_roofline": least / taken}


def line(row: dict[str, Any]) -> str:
    """A row as it is printed: microseconds forward, and forward and backward."""
    shape = "x".join(str(size) for size in row["shape"].values())
    times = [
        f"{name} {row['forward_seconds'][name] * 1e6:.1f} {taken * 1e6:.1f}"
        for name, taken in row["seconds"].items()
    ]
    share = row["forward_and_backward"]["share_of_roofline"]
    roofline = "" if share is None else f"  {share:.1%} of the roofline"
    return f"{shape:>14} {row['dtype']:>8}  {'  '.join(times)}{roofline}"


def seconds(call: Call, stacked: cases.Arguments, effort: Effort) -> float:
    """Seconds of a call on the device: the median over runs of a program of many calls."""

    def program(stacked: cases.Arguments) -> Any:
        def step(total: Any, number: Any) -> tuple[Any, None]:
            arguments = jax.tree.map(lambda array: array[number % ROTATION], stacked)
            # All of a result is computed, although one number of each array is looked at.
            leaves = jax.lax.optimization_barrier(jax.tree.leaves(call(arguments)))
            return total + sum(leaf.ravel()[0].astype(jnp.float32) for leaf in leaves), None

        return jax.lax.scan(step, jnp.float32(0), jnp.arange(effort.calls))[0]

    compiled = jax.jit(program).lower(stacked).compile()
    jax.block_until_ready(compiled(stacked))
    times = []
    for _ in range(effort.runs):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(stacked))
        times.append((time.perf_counter() - begin) / effort.calls)
    return statistics.median(times)


def _implementation(case: cases.Case, name: str) -> tuple[Call, Call]:
    """Forward, and forward and backward."""

    def forward(arguments: cases.Arguments) -> Any:
        return lstm(arguments.inputs, arguments.params, implementation=name)

    return forward, lambda arguments: cases.call(case, arguments, name)


def _peer(layer: Callable[[Any, Params], Any]) -> tuple[Call, Call]:
    """Forward, and forward and backward, of `(inputs, parameters) -> (outputs, last state)`."""

    def both(arguments: cases.Arguments) -> Any:
        results, pull_back = jax.vjp(layer, arguments.inputs, arguments.params)
        return results, pull_back(arguments.cotangents)

    return lambda arguments: layer(arguments.inputs, arguments.params), both


def scan(inputs: Any, params: Params) -> tuple[Any, State]:
    """A plain `lax.scan`, both products in each step, differentiated by JAX."""
    kernel, recurrent_kernel, bias = params
    shape = (inputs.shape[0], recurrent_kernel.shape[0])

    def step(state: State, x: Any) -> tuple[State, Any]:
        sums = x @ kernel + state.output @ recurrent_kernel + bias
        gates = steps.activate(steps.split(sums.astype(jnp.float32)))
        cell, output = steps.advance(gates, state.cell)
        output = output.astype(inputs.dtype)
        return State(cell, output), output

    first = State(jnp.zeros(shape), jnp.zeros(shape, inputs.dtype))
    last, outputs = jax.lax.scan(step, first, inputs.swapaxes(0, 1))
    return outputs.swapaxes(0, 1), last


def cudnn(inputs: Any, params: Params) -> tuple[Any, State]:
    """JAX's entry to cuDNN's LSTM, float32 on NVIDIA GPUs; its gates have our order."""
    batch, length, features = inputs.shape
    hidden = params.recurrent_kernel.shape[0]
    weights = [array.ravel() for array in convert.to_torch(params).values()]
    zeros = jnp.zeros((1, batch, hidden))
    outputs, output, cell = rnn.lstm(
        inputs,
        zeros,
        zeros,
        jnp.concatenate(weights),
        jnp.full(batch, length, jnp.int32),
        input_size=features,
        hidden_size=hidden,
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
    )
    return outputs, State(cell[0], output[0])


def _torch_seconds(python: str, case: cases.Case, effort: Effort) -> list[float]:
    """PyTorch's LSTM of that shape, in a process of its own: forward, and both."""
    sizes = [case.batch, case.time, case.features, case.hidden, case.dtype]
    words = json.dumps([*sizes, effort.calls, effort.runs])
    done = subprocess.run([python, "-c", _TORCH, words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"PyTorch in {python}: {done.stderr.strip()[-500:]}")
    forward, both = json.loads(done.stdout)
    return [forward, both]


if __name__ == "__main__":
    main()
