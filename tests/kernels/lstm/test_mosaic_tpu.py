"""The TPU's kernels, interpreted: NaN in fresh memory, races and reads out of bounds are errors."""

import jax.numpy as jnp
import pytest

from kernels import aot, dispatch
from kernels.lstm import mosaic_tpu
from kernels.lstm.cases import Case

# 16 steps are a chunk at most, 256 rows a tile, and 128 or 256 units a group.
FAST = [
    Case(3, 19, 5, 9, "float32", state=True, ragged=True, reverse=True),
]
SLOW = [
    Case(2, 2, 4, 300, "bfloat16", state=True, recompute=True),
    Case(1, 1, 1, 1, "bfloat16"),
    Case(1, 1, 1, 1, "bfloat16", ragged=True),
    Case(3, 7, 5, 9, "float32", recompute=True),
    Case(17, 17, 3, 130, "bfloat16", state=True, ragged=True, reverse=True, recompute=True),
    Case(9, 35, 7, 128, "float32", state=True, ragged=True),
    Case(2, 33, 4, 512, "bfloat16", state=True, ragged=True),
    Case(2, 3, 4, 384, "float32", reverse=True),
    Case(300, 18, 3, 5, "bfloat16", state=True, ragged=True, reverse=True),
]


@pytest.mark.parametrize(
    "case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_values_and_gradients_are_as_right_as_those_of_xla(prove, case):
    prove("mosaic_tpu", case)


@pytest.mark.parametrize(
    ("kind", "batch", "hidden", "dtype", "needed"),
    [
        ("TPU v5 lite", 1, 1, jnp.bfloat16, None),
        ("TPU v5 lite", 10**6, 1024, jnp.bfloat16, None),
        ("TPU v5 lite", 256, 2048, jnp.bfloat16, None),
        ("TPU v5 lite", 16, 2048, jnp.float32, None),
        ("TPU v5 lite", 256, 2048, jnp.float32, "116 MiB of VMEM"),
        ("TPU v5 lite", 1, 4096, jnp.bfloat16, "132 MiB of VMEM"),
        ("TPU v5", 256, 1024, jnp.bfloat16, None),
        ("TPU v5", 16, 2048, jnp.bfloat16, None),
        ("TPU v5", 256, 2048, jnp.bfloat16, "68 MiB of VMEM"),
        ("TPU v5", 16, 2048, jnp.float32, "67 MiB of VMEM"),
    ],
)
def test_what_does_not_fit_in_memory_is_refused_by_its_size(kind, batch, hidden, dtype, needed):
    with dispatch.target(kind):
        reason = mosaic_tpu.refusal(batch, 64, hidden, dtype)
    if needed is None:
        assert reason is None
    else:
        had = 48 if kind == "TPU v5" else 96
        assert reason.startswith(f"{hidden} units need {needed}")
        assert reason.endswith(f"and {had} are available")


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_dtypes_are_refused_by_name(dtype):
    assert mosaic_tpu.refusal(1, 1, 1, dtype) == f"it takes float32 and bfloat16, not {dtype}"


# What lies at the edges of tiles, chunks and groups, the least, and the largest that fits.
COMPILED = [
    (Case(64, 35, 200, 128, "bfloat16", state=True, ragged=True), False),
    (Case(3, 19, 5, 9, "float32", reverse=True, recompute=True), True),
    (Case(1, 1, 1, 1, "bfloat16"), True),
    (Case(1, 512, 64, 300, "float32", state=True), True),
    (Case(300, 64, 256, 650, "bfloat16", state=True, ragged=True, reverse=True), True),
    (Case(16, 512, 512, 1024, "float32"), True),
    (Case(256, 35, 512, 2048, "bfloat16", recompute=True), True),
]


@pytest.mark.parametrize("chip", ["v5e", pytest.param("v6e", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if slow else ()) for case, slow in COMPILED],
    ids=str,
)
def test_both_kernels_compile_and_are_in_the_program(lower, chip, case):
    # Lowering a named implementation that refuses the case would raise.
    program = aot.compile_for(*lower(f"tpu:{chip}", "mosaic_tpu", case))
    assert program.kernels == ("lstm_forward", "lstm_backward")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [Case(256, 35, 512, 1024, "bfloat16"), Case(16, 35, 512, 2048, "bfloat16")], ids=str
)
def test_both_kernels_compile_for_a_tpu_with_half_the_memory(lower, case):
    program = aot.compile_for(*lower("tpu:v5p", "mosaic_tpu", case))
    assert program.kernels == ("lstm_forward", "lstm_backward")


@pytest.mark.slow
def test_only_the_kernels_of_the_named_implementation_are_in_the_program(lower):
    assert aot.compile_for(*lower("tpu:v5e", "xla", COMPILED[0][0])).kernels == ()
