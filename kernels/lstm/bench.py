"""What `python -m kernels.bench` measures of the LSTM.

Peers are a plain `lax.scan`, JAX's cuDNN LSTM (float32, NVIDIA GPUs) and PyTorch's.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import rnn

from kernels import dispatch, timing
from kernels.lstm import Params, State, cases, convert, lstm, steps
from kernels.lstm import dispatch as lstm_dispatch

# Steps of a proof: more than a kernel takes at once, and few enough for float64 on the host.
_PROVED_STEPS = 20

# Batch, time, units; inputs are as wide as the state.
SHAPES = ",".join(
    f"{batch}x{time}x{units}"
    for batch, time, units in itertools.product(
        (1, 16, 64, 256), (35, 128, 512), (64, 128, 256, 512, 1024, 2048)
    )
)
DTYPES: tuple[str, ...] = ("bfloat16", "float32")
CALLS = 16
CASES: ModuleType = cases

_TORCH = """
batch, steps, features, hidden, dtype = words
options = {"device": device, "dtype": getattr(torch, dtype)}
layer = torch.nn.LSTM(features, hidden, batch_first=True, **options)
inputs = [torch.randn(batch, steps, features, requires_grad=True, **options) for _ in range(4)]
cotangent = torch.randn(batch, steps, hidden, **options)

def forward(x):
    with torch.no_grad():
        layer(x)

def both(x):
    torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], cotangent)

print(json.dumps({"torch": [seconds(forward, inputs), seconds(both, inputs)]}))
"""


class Drawn(NamedTuple):
    """What a call is timed on.

    Attributes:
      arguments: of the operation.
      packed: the parameters as cuDNN wants them, or None where it is not a peer.
    """

    arguments: cases.Arguments
    packed: jax.Array | None


def parse(word: str, dtype: str) -> list[cases.Case]:
    """See `bench.Family`: "16x35x128" is batch, time and units."""
    try:
        batch, time, hidden = map(timing.positive_integer, word.split("x"))
    except ValueError:
        raise ValueError(
            f"{word!r}: batch, time and units, each at least 1, as in 16x35x128"
        ) from None
    return [cases.Case(batch, time, hidden, hidden, dtype)]


def proofs(case: cases.Case) -> list[cases.Case]:
    """See `bench.Family`; with an initial state and rows that end early.

    The batch stays, since kernels and their layouts are chosen by it.
    """
    time = min(case.time, _PROVED_STEPS)
    return [dataclasses.replace(case, time=time, state=True, ragged=True)]


def right(case: cases.Case, arguments: cases.Arguments) -> dict[str, Any]:
    """See `bench.Family`."""
    return cases.right(case, arguments)


def serving(case: cases.Case) -> list[str]:
    """See `bench.Family`."""
    told = dispatch.explain(lstm_dispatch.refusals(case.batch, case.time, case.hidden, case.dtype))
    # The reference is what is right, not what is fast.
    return [name for name, word in told.items() if word == "serves" and name != "reference"]


def subjects(case: cases.Case) -> list[timing.Subject]:
    """See `bench.Family`: the layer."""
    peers = {"scan": _peer(scan, lambda drawn: drawn.arguments.params)}
    if case.dtype == "float32" and dispatch.platform(dispatch.device_kind()) == "gpu":
        layer = functools.partial(cudnn, case.hidden)
        peers["cudnn"] = _peer(layer, lambda drawn: drawn.packed)

    def draw(seed: int) -> Drawn:
        arguments = cases.draw(case, seed)
        return Drawn(arguments, pack(arguments.params) if "cudnn" in peers else None)

    return [
        timing.Subject(
            operation="lstm",
            shape={"batch": case.batch, "time": case.time, "hidden": case.hidden},
            dtype=case.dtype,
            draw=draw,
            implementations={name: [_implementation(case, name)] for name in serving(case)},
            peers=peers,
            counts=(counts(case, backward=False), counts(case, backward=True)),
            script=timing.Script(
                _TORCH, (case.batch, case.time, case.features, case.hidden, case.dtype)
            ),
        )
    ]


def counts(case: cases.Case, backward: bool) -> timing.Counts:
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
        return timing.Counts(operations, size * numbers)
    numbers += rows * (2 * features + hidden) + 2 * parameters
    return timing.Counts(3 * operations, size * numbers)


def _implementation(case: cases.Case, name: str) -> timing.Directions:
    def forward(drawn: Drawn) -> Any:
        return lstm(drawn.arguments.inputs, drawn.arguments.params, implementation=name)

    return timing.Directions(forward, lambda drawn: cases.call(case, drawn.arguments, name))


def _peer(
    layer: Callable[[Any, Any], Any], parameters: Callable[[Drawn], Any]
) -> timing.Directions:
    """A peer in both directions.

    Args:
      layer: `(inputs, parameters) -> (outputs, last state)`.
      parameters: takes them from what was drawn.
    """

    def forward(drawn: Drawn) -> Any:
        return layer(drawn.arguments.inputs, parameters(drawn))

    def both(drawn: Drawn) -> Any:
        results, pull_back = jax.vjp(layer, drawn.arguments.inputs, parameters(drawn))
        return results, pull_back(drawn.arguments.cotangents)

    return timing.Directions(forward, both)


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


def pack(params: Params) -> jax.Array:
    """The vector that cuDNN wants: PyTorch's arrays in a row; its gates have our order."""
    return jnp.concatenate([array.ravel() for array in convert.to_torch(params).values()])


def cudnn(hidden: int, inputs: Any, packed: Any) -> tuple[Any, State]:
    """JAX's entry to cuDNN's LSTM, float32 on NVIDIA GPUs."""
    batch, length, features = inputs.shape
    zeros = jnp.zeros((1, batch, hidden))
    outputs, output, cell = rnn.lstm(
        inputs,
        zeros,
        zeros,
        packed,
        jnp.full(batch, length, jnp.int32),
        input_size=features,
        hidden_size=hidden,
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
    )
    return outputs, State(cell[0], output[0])
