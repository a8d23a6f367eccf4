"""The block by the TPU's kernels: interpreted, and compiled.

In interpretation NaN in fresh memory, races and reads out of bounds are errors.
"""

import pytest

from kernels import aot
from kernels.conv_bn_relu import cases, mosaic_tpu
from kernels.conv_bn_relu.cases import Case

# A tile of a 3x3 convolution is 16 images in bfloat16, 8 in float32, and at most 8 MiB.
FAST = [
    Case(3, 3, 5, 3, 5, 3, 1, "bfloat16", residual=True, statistics=True, pending=True),
]
SLOW = [
    Case(2, 3, 5, 5, 3, 1, 2, "float32", pending=True, activation="none"),
    Case(1, 1, 1, 1, 1, 1, 1, "float32"),
    Case(1, 1, 1, 1, 1, 3, 1, "bfloat16", pending=True),
    Case(2, 1, 1, 17, 2048, 1, 1, "bfloat16", residual=True),
    Case(2, 1, 1, 2048, 17, 1, 1, "float32", pending=True),
    Case(9, 3, 5, 17, 5, 3, 1, "float32", residual=True, statistics=True),
    Case(17, 7, 7, 3, 17, 3, 1, "bfloat16", statistics=True),
    Case(2, 7, 7, 127, 129, 1, 2, "bfloat16", residual=True, pending=True),
    Case(2, 7, 7, 129, 127, 3, 1, "float32", pending=True),
    Case(2, 31, 33, 5, 3, 1, 2, "bfloat16", pending=True),
    Case(1, 31, 33, 5, 3, 3, 1, "bfloat16", residual=True, pending=True),
    Case(2, 7, 7, 3, 64, 7, 2, "bfloat16"),
    Case(2, 7, 7, 64, 64, 3, 2, "bfloat16", pending=True),
    Case(2, 3, 5, 64, 512, 3, 1, "bfloat16", residual=True),
    # Two tiles.
    Case(9, 31, 33, 3, 5, 1, 1, "float32", residual=True),
    Case(1, 34, 31, 3, 5, 3, 1, "float32", pending=True),
    # What rounding does to so few values, it does to a channel by chance: many channels.
    Case(2, 7, 7, 5, 64, 1, 1, "float32", mean=1000.0),
    Case(2, 7, 7, 5, 64, 3, 1, "float32", mean=1000.0, activation="none"),
    Case(2, 7, 7, 5, 3, 3, 1, "float32", constant=True, activation="none", residual=True),
    Case(3, 31, 33, 5, 3, 1, 1, "bfloat16", constant=True, statistics=True),
]


@pytest.mark.parametrize(
    "case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_values_and_gradients_are_as_right_as_those_of_xla(prove, case):
    prove("mosaic_tpu", case)


def launched(case):
    """The kernels that a call and its gradient launch."""
    served = not mosaic_tpu.conv_refusal(case.geometry, case.dtype)
    conv = [f"conv_stats_{case.kernel_size}x{case.kernel_size}"] if served else []
    # What was pending is normalized in front of XLA's convolution, or for the kernel's gradient.
    each = ["normalize", "normalize_sums", "normalize_cotangent"]
    return sorted(conv + each * (2 if case.pending else 1))


# Every kind of call of the two networks, and what is no multiple of anything.
FAST_COMPILED = Case(128, 14, 14, 256, 1024, 1, 1, pending=True, residual=True)
COMPILED = [
    ("v6e", FAST_COMPILED),
    ("v5e", Case(128, 56, 56, 64, 64, 3, 1, pending=True)),
    ("v5e", Case(128, 56, 56, 256, 512, 1, 2, activation="none")),
    ("v5e", Case(128, 28, 28, 256, 256, 3, 2, pending=True)),
    ("v6e", Case(128, 32, 32, 16, 16, 3, 1, "float32", pending=True, residual=True)),
    ("v6e", Case(7, 31, 33, 17, 127, 3, 1, "float32")),
]


@pytest.mark.parametrize(
    ("chip", "case"),
    [
        ("v5e", FAST_COMPILED),
        *(pytest.param(chip, case, marks=pytest.mark.slow) for chip, case in COMPILED),
    ],
    ids=str,
)
def test_a_call_launches_the_kernels_that_it_should(lower, chip, case):
    program = aot.compile_for(*lower(f"tpu:{chip}", "mosaic_tpu", case))
    assert sorted(program.kernels) == launched(case)


@pytest.mark.slow
def test_only_the_kernels_of_the_named_implementation_are_in_the_program(lower):
    assert aot.compile_for(*lower("tpu:v5e", "xla", cases.resnet20(2)[0])).kernels == ()
