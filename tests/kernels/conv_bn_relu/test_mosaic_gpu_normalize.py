"""The GPU's passes, interpreted: NaN in fresh memory and races between copies are errors."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import aot, assembly, testing
from kernels.conv_bn_relu import cases, mosaic_gpu_normalize, xla
from kernels.conv_bn_relu.types import Affine, Geometry


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of call: with a residual the outputs are what masks the cotangent."""

    rows: int
    channels: int
    dtype: str = "float32"
    residual: bool = False
    activation: str = "relu"
    mean: float = 0.0

    def __str__(self):
        words = [f"{self.rows}x{self.channels}", self.dtype, self.activation]
        flags = ("residual", "mean")
        return "-".join([*words, *(name for name in flags if getattr(self, name))])


def draw(case):
    """Random arguments for all three passes."""
    random = np.random.default_rng(case.rows * case.channels)

    def normal(*shape, mean=0.0, scale=1.0):
        return mean + scale * random.standard_normal(shape, np.float32)

    shape = case.rows, case.channels
    arrays = {"raw": normal(*shape, mean=case.mean), "cotangent": normal(*shape)}
    if case.residual:
        arrays |= {"residual": normal(*shape), "outputs": np.maximum(normal(*shape), 0)}
    vector = functools.partial(normal, case.channels, scale=0.5)
    return {
        **{name: jnp.asarray(array, case.dtype) for name, array in arrays.items()},
        "affine": Affine(*map(jnp.asarray, (vector(mean=case.mean), vector(mean=1), vector()))),
        "slope": jnp.asarray(vector()),
        "offset": jnp.asarray(vector()),
    }


def call(case, primitives, arguments):
    """What the three passes give."""
    raw, affine, before = (arguments[name] for name in ("raw", "affine", "cotangent"))
    outputs, activation = arguments.get("outputs"), case.activation
    sums, masked = primitives.cotangent_sums(raw, affine, outputs, before, activation=activation)
    return {
        "normalize": primitives.normalize(
            raw, affine, arguments.get("residual"), activation=activation
        ),
        "sums": sums,
        "masked": masked,
        "cotangent": primitives.cotangent(
            raw, affine, before, arguments["slope"], arguments["offset"], activation=activation
        ),
    }


def right(case, arguments):
    """What they should give, in float64."""
    exact: Any = jax.tree.map(lambda array: np.asarray(array, np.float64), arguments)
    affine, before = exact["affine"], exact["cotangent"]
    centered = exact["raw"] - affine.mean
    plain = centered * affine.factor + affine.bias
    passes = (plain > 0) | (case.activation == "none")
    masked = before * (exact["outputs"] > 0 if case.residual else passes)
    values = plain + exact["residual"] if case.residual else plain
    return {
        "normalize": np.maximum(values, 0) if case.activation == "relu" else values,
        "sums": (masked.sum(0), (masked * centered).sum(0), centered.sum(0)),
        "masked": masked if case.residual else None,
        "cotangent": affine.factor * before * passes + exact["slope"] * centered + exact["offset"],
    }


def interpret(run, arguments):
    """What `run(primitives, arguments)` gives with the kernels."""
    with testing.interpreted("mosaic_gpu"):
        compiled = jax.jit(functools.partial(run, mosaic_gpu_normalize))
        return jax.block_until_ready(compiled(arguments))


def prove(case):
    arguments, run = draw(case), functools.partial(call, case)
    result, other = interpret(run, arguments), jax.jit(functools.partial(run, xla))(arguments)
    testing.assert_as_right_as_xla(result, other, right(case, arguments), case.dtype)


# Rows are made up to fill tiles, or several are side by side, or neither.
FAST = [Case(15, 3, "bfloat16")]
SLOW = [
    Case(1, 1, residual=True),
    Case(1, 17, "bfloat16", residual=True, activation="none"),
    Case(15, 5, activation="none"),
    Case(49, 129, "bfloat16", residual=True),
    Case(64, 127),
    Case(1023, 5, mean=1000.0),
    Case(1023, 17, "bfloat16", residual=True),
    Case(49, 64, residual=True),
    Case(1023, 128, "bfloat16"),
    Case(64, 2048, residual=True, activation="none"),
    Case(15, 2048, "bfloat16"),
]


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    "case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_each_pass_is_as_right_as_that_of_xla(case):
    prove(case)


@pytest.mark.slow
def test_a_block_s_ring_of_tiles_goes_round(monkeypatch):
    # Two blocks of seven tiles and six: there is room for five, and for three with the outputs.
    monkeypatch.setattr(mosaic_gpu_normalize, "_BLOCKS", 2)
    prove(Case(13 * 8, 128, residual=True))


@pytest.mark.parametrize("channels", [4, pytest.param(64, marks=pytest.mark.slow)])
def test_a_nan_stays_in_its_channel(channels):
    case = Case(7, channels)
    arguments = draw(case)
    arguments["raw"] = arguments["raw"].at[3, 2].set(jnp.nan)
    result = interpret(functools.partial(call, case), arguments)
    for array in (result["normalize"], result["cotangent"], *(v[None] for v in result["sums"][1:])):
        np.testing.assert_array_equal(jnp.isnan(array).any(0), np.arange(channels) == 2)


@pytest.mark.slow
def test_under_vmap():
    case = Case(9, 64, "bfloat16", residual=True)
    apart = [draw(dataclasses.replace(case, mean=float(mean))) for mean in range(3)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *apart)

    def run(primitives, arguments):
        return jax.vmap(functools.partial(call, case, primitives))(arguments)

    result, other = interpret(run, stacked), jax.jit(functools.partial(run, xla))(stacked)
    expected = [right(case, arguments) for arguments in apart]
    together = jax.tree.map(lambda *arrays: np.stack(arrays), *expected)
    testing.assert_as_right_as_xla(result, other, together, case.dtype)


NAMES = ["normalize", "normalize_cotangent", "normalize_sums"]


def lower(case):
    """All three passes, lowered for one device."""
    machine = aot.target("gpu:h200")
    if reason := aot.missing(machine.chip.platform) or assembly.missing():
        pytest.skip(reason)
    sharding = jax.sharding.SingleDeviceSharding(machine.devices[0])
    arguments = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        shapes(case),
    )
    run = functools.partial(call, case, mosaic_gpu_normalize)
    return machine, jax.jit(run).lower(arguments)


def shapes(case):
    array = jax.ShapeDtypeStruct((case.rows, case.channels), case.dtype)
    vector = jax.ShapeDtypeStruct((case.channels,), jnp.float32)
    arguments = {"raw": array, "cotangent": array, "affine": Affine(vector, vector, vector)}
    if case.residual:
        arguments |= {"residual": array, "outputs": array}
    return {**arguments, "slope": vector, "offset": vector}


def of_a_network(blocks):
    """The normalizations of a residual network."""
    for block in blocks:
        geometry = Geometry(
            block.batch,
            block.height,
            block.width,
            block.inputs,
            block.outputs,
            (block.kernel_size, block.kernel_size),
            (block.stride, block.stride),
            block.padding,
        )
        yield Case(geometry.rows, block.outputs, block.dtype, block.residual, block.activation)


# A kernel's code depends on the number of rows by what fills its tiles: by SLOW's numbers.
COMPILED = testing.one_of_each(
    [*SLOW, *of_a_network(cases.resnet50(128)), *of_a_network(cases.resnet20(128))],
    lambda case: (case.channels, case.dtype, case.residual, case.activation),
)


@pytest.mark.slow
@pytest.mark.parametrize("case", [Case(128 * 49, 2048, "bfloat16"), *COMPILED], ids=str)
def test_the_kernels_are_in_the_program_and_assemble_without_a_spill(case):
    machine, lowered = lower(case)
    program = aot.compile_for(machine, lowered)
    assert sorted(program.kernels) == NAMES
    kernels = assembly.assemble(lowered)
    assert sorted(kernel.name for kernel in kernels) == NAMES
    assert [kernel.spilled_bytes for kernel in kernels] == [0, 0, 0]
    # Nothing is copied where the rows, so many of them side by side as make 128 columns, are
    # multiples of eight.
    copied = case.rows % (8 * 128 // math.gcd(case.channels, 128)) > 0
    array_bytes = case.rows * case.channels * jnp.dtype(case.dtype).itemsize
    assert (program.temporary_bytes > array_bytes) == copied
