"""Calls of the operation with random arguments, and what is right: for the tests and the benchmark.

What is right is the reference in float64, on the CPU: its values and its vector-Jacobian products.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels.lstm import reference
from kernels.lstm.operation import lstm
from kernels.lstm.types import Params, State


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of call.

    Attributes:
      batch: number of sequences.
      time: number of steps.
      features: size of an input.
      hidden: number of units.
      dtype: of the inputs: "float32" or "bfloat16".
      state: an initial state is given.
      ragged: rows end early: the first one never, the last one (of several) before it begins.
      reverse: the steps are taken against time.
      recompute: the gates are not kept.
    """

    batch: int
    time: int
    features: int
    hidden: int
    dtype: str = "bfloat16"
    state: bool = False
    ragged: bool = False
    reverse: bool = False
    recompute: bool = False

    def __str__(self) -> str:
        sizes = f"{self.batch}x{self.time}x{self.features}x{self.hidden}-{self.dtype}"
        options = ("state", "ragged", "reverse", "recompute")
        return "-".join([sizes, *(name for name in options if getattr(self, name))])


class Arguments(NamedTuple):
    """The arrays of a call, of the case's dtype.

    Attributes:
      inputs: x.
      params: W, R and b, scaled by their fan-in.
      first: the initial state, or None.
      lengths: or None.
      cotangents: of the outputs and of the last state.
    """

    inputs: Any
    params: Params
    first: State | None
    lengths: Any
    cotangents: tuple[Any, State]


def draw(case: Case, seed: int = 0) -> Arguments:
    """Random arguments for a case."""
    random = np.random.default_rng(seed)
    dtype = jnp.dtype(case.dtype)

    def normal(*shape: int, scale: float = 1.0, dtype: Any = dtype) -> jax.Array:
        return jnp.asarray(scale * random.standard_normal(shape), dtype)

    batch, time, features, hidden = case.batch, case.time, case.features, case.hidden

    def state() -> State:
        return State(normal(batch, hidden, dtype=jnp.float32), normal(batch, hidden))

    lengths = random.integers(0, time + 1, batch).astype(np.int32)
    lengths[-1], lengths[0] = 0, time
    return Arguments(
        normal(batch, time, features),
        Params(
            normal(features, 4 * hidden, scale=features**-0.5),
            normal(hidden, 4 * hidden, scale=hidden**-0.5),
            normal(4 * hidden, scale=0.1),
        ),
        state() if case.state else None,
        jnp.asarray(lengths) if case.ragged else None,
        (normal(batch, time, hidden), state()),
    )


def call(case: Case, arguments: Arguments, implementation: str) -> dict[str, Any]:
    """Values and gradients by an implementation, compiled.

    Returns:
      "outputs", "last" and "gradients": those of the inputs, the parameters and the initial state.
    """
    return jax.jit(functools.partial(_called, case, implementation))(arguments)


def lower(case: Case, implementation: str, sharding: jax.sharding.Sharding) -> Any:
    """What `call` compiles, lowered for the devices of a sharding: no array is on them."""
    arguments = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        draw(case),
    )
    return jax.jit(functools.partial(_called, case, implementation)).lower(arguments)


def _called(case: Case, implementation: str, arguments: Arguments) -> dict[str, Any]:
    def forward(inputs: Any, params: Params, first: State | None) -> Any:
        return lstm(
            inputs,
            params,
            first,
            arguments.lengths,
            reverse=case.reverse,
            recompute=case.recompute,
            implementation=implementation,
        )

    operands = (arguments.inputs, arguments.params, arguments.first)
    return _pulled_back(forward, operands, arguments.cotangents)


def right(case: Case, arguments: Arguments) -> dict[str, Any]:
    """What `call` should give, in float64."""

    def forward(inputs: Any, params: Params, first: State | None) -> Any:
        zeros = jnp.zeros((case.batch, case.hidden))
        first = first or State(zeros, zeros)
        return reference.lstm(inputs, params, first, arguments.lengths, reverse=case.reverse)

    operands = (arguments.inputs, arguments.params, arguments.first)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        exact = jax.tree.map(
            lambda array: jnp.asarray(np.asarray(array, np.float64)),
            (operands, arguments.cotangents),
        )
        # Compiled as a whole: one operation after the other would be compiled for longer.
        pulled_back = jax.jit(functools.partial(_pulled_back, forward))
        return jax.tree.map(np.asarray, pulled_back(*exact))


def _pulled_back(forward: Any, operands: Any, cotangents: Any) -> dict[str, Any]:
    (outputs, last), pull_back = jax.vjp(forward, *operands)
    return {"outputs": outputs, "last": last, "gradients": pull_back(cotangents)}
