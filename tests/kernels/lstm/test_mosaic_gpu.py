"""The GPU's kernels, interpreted: NaN in fresh memory and races between threads are errors."""

import jax.numpy as jnp
import pytest

from kernels import aot, assembly
from kernels.lstm import mosaic_gpu
from kernels.lstm.cases import Case

# 16 rows are a tile, 64 units a warpgroup's, and two steps are in flight.
FAST = [
    Case(3, 3, 5, 9, state=True, ragged=True, reverse=True),
]
SLOW = [
    Case(17, 3, 4, 70, state=True, recompute=True),
    Case(1, 1, 1, 1),
    Case(1, 3, 1, 64, ragged=True),
    Case(16, 19, 3, 64, state=True, ragged=True),
    Case(33, 6, 7, 65, state=True, ragged=True, reverse=True, recompute=True),
    Case(5, 9, 3, 128, state=True, ragged=True),
]


@pytest.mark.parametrize(
    "case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_values_and_gradients_are_as_right_as_those_of_xla(prove, case):
    prove("mosaic_gpu", case)


@pytest.mark.parametrize(
    ("hidden", "dtype", "reason"),
    [
        (1, jnp.bfloat16, None),
        (128, jnp.bfloat16, None),
        (4096, jnp.bfloat16, None),
        (128, jnp.float32, "it takes bfloat16"),
    ],
)
def test_what_it_cannot_serve_is_refused_with_the_reason(hidden, dtype, reason):
    told = mosaic_gpu.refusal(16, 64, hidden, dtype)
    assert told is None if reason is None else reason in told


@pytest.mark.parametrize(
    ("batch", "hidden", "blocks"),
    [
        (256, 128, None),
        (1, 129, "a cluster"),
        (256, 448, "a cluster"),
        (256, 449, "a grid"),
        (128, 1024, "a grid"),
        (129, 1024, None),
        (16, 1600, "a grid"),
        # Only its forward pass.
        (17, 1600, "a grid"),
        (1, 1729, None),
    ],
)
def test_blocks_that_exchange_results_are_for_who_asks_for_them(batch, hidden, blocks):
    told = mosaic_gpu.unproved(batch, hidden)
    if blocks is None:
        assert told is None
    else:
        assert told.startswith(f"{blocks} of thread blocks that exchange their results, as {batch}")


# What lies at the edges of tiles and warpgroups, the least, and the largest that one block holds.
COMPILED = [
    Case(64, 35, 200, 128, state=True, ragged=True),
    Case(1, 1, 1, 1),
    Case(17, 3, 5, 65, reverse=True, recompute=True),
    Case(256, 512, 128, 64, state=True),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_both_kernels_are_in_the_program_and_assemble_without_a_spill(lower, case):
    if reason := assembly.missing():
        pytest.skip(reason)
    assert mosaic_gpu.refusal(case.batch, case.time, case.hidden, case.dtype) is None
    machine, lowered = lower("gpu:h200", "mosaic_gpu", case)
    assert aot.compile_for(machine, lowered).kernels == ("lstm_forward", "lstm_backward")
    kernels = assembly.assemble(lowered)
    assert [kernel.name for kernel in kernels] == ["lstm_forward", "lstm_backward"]
    for kernel in kernels:
        assert kernel.spilled_bytes == 0
        assert kernel.tensor_instructions > 0


@pytest.mark.slow
def test_only_the_kernels_of_the_named_implementation_are_in_the_program(lower):
    assert aot.compile_for(*lower("gpu:h200", "xla", COMPILED[0])).kernels == ()
