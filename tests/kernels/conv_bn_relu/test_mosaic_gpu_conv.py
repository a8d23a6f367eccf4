"""The GPU's convolutions, interpreted: NaN in fresh memory and races between threads are errors."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels import aot, assembly, dispatch, testing
from kernels.conv_bn_relu import (
    cases,
    mosaic_gpu,
    mosaic_gpu_conv,
    mosaic_gpu_plan,
    mosaic_gpu_product,
    xla,
)
from kernels.conv_bn_relu.cases import Case
from kernels.conv_bn_relu.geometry import geometry_of
from kernels.conv_bn_relu.types import Affine

# Rows by 128, or by 256 where they fill that; 64 or 128 outputs; 64 inputs a step. Of 3x3
# convolutions the first and the last tiles are read from elsewhere: of one tile, of all tiles, of
# two of nine at either end.
FAST = [Case(3, 3, 5, 5, 65, 3, pending=True, statistics=True)]
SLOW = [
    Case(2, 7, 7, 70, 3, 1, 2, pending=True),
    Case(3, 3, 5, 5, 129, 3, pending=True, statistics=True),
    Case(1, 1, 1, 1, 1),
    Case(1, 1, 1, 1, 1, 3, pending=True),
    Case(7, 1, 1, 129, 17, 1, 2, residual=True, activation="none", statistics=True),
    Case(3, 7, 11, 65, 128, pending=True),
    Case(3, 7, 11, 17, 64, 3),
    Case(2, 31, 33, 3, 5, 3, pending=True),
    Case(3, 3, 5, 127, 65, 3, residual=True),
    Case(1, 7, 7, 2048, 512),
    Case(1, 7, 7, 512, 512, 3, pending=True),
    Case(4, 2, 140, 3, 5, 3, pending=True),
    Case(2, 7, 7, 3, 5, 3, constant=True, pending=True),
]


@pytest.fixture
def passes_of_xla(monkeypatch):
    """The passes over stored values have tests of their own."""
    for name in ("normalize", "cotangent_sums", "cotangent"):
        monkeypatch.setattr(mosaic_gpu, name, getattr(xla, name))


@pytest.mark.usefixtures("passes_of_xla")
@pytest.mark.parametrize(
    "case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_values_and_gradients_are_as_right_as_those_of_xla(prove, case):
    assert mosaic_gpu_conv.conv_refusal(geometry(case), case.dtype) is None
    prove("mosaic_gpu", case)


@pytest.mark.parametrize("size", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_moments_are_those_of_what_is_stored_however_far_its_mean_is(size):
    case = Case(3, 7, 9, 5, 3, size, mean=300.0)
    x, kernel, *_ = cases.draw(case).operands
    with testing.interpreted("mosaic_gpu"):
        raw, moments = mosaic_gpu_conv.conv_stats(
            x, kernel.astype(x.dtype), None, geometry(case), activation="none"
        )
    values = np.asarray(raw, np.float64).reshape(-1, case.outputs)
    mean = values.mean(0)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(moments.squares, np.square(values - mean).sum(0), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("passes_of_xla")
@pytest.mark.parametrize(
    "case",
    [
        Case(2, 16, 16, 70, 129),
        Case(2, 16, 16, 70, 129, pending=True),
        Case(2, 16, 16, 3, 129, 3, pending=True),
    ],
    ids=str,
)
def test_a_block_takes_several_tiles_of_more_steps_than_there_is_room_for(prove, monkeypatch, case):
    monkeypatch.setattr(mosaic_gpu_plan, "BLOCKS", 2)
    monkeypatch.setattr(mosaic_gpu_plan, "_MAXIMUM_SLOTS", 2)
    prove("mosaic_gpu", case)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case(1, 7, 7, 3, 5), None),
        (Case(1, 7, 7, 3, 5, 1, 2), None),
        (Case(1, 7, 7, 3, 5, 3), None),
        (Case(1, 7, 7, 3, 5, dtype="float32"), "the matrix units have no float32 product"),
        (Case(1, 7, 7, 3, 5, 3, 2), "3x3 kernels that keep height and width"),
        (Case(1, 7, 7, 3, 5, 7, 2), "3x3 kernels that keep height and width"),
        (Case(1, 7, 250, 3, 5, 3), None),
        (Case(1, 7, 251, 3, 5, 3), "lines of 251 positions do not fit"),
        (Case(1, 7, 251, 3, 5), None),
    ],
    ids=str,
)
def test_what_it_cannot_serve_is_refused_with_the_reason(case, reason):
    told = mosaic_gpu_conv.conv_refusal(geometry(case), case.dtype)
    assert told is None if reason is None else reason in told


def geometry(case):
    shape = jax.ShapeDtypeStruct
    x = shape((case.batch, case.height, case.width, case.inputs), case.dtype)
    kernel = shape((case.kernel_size, case.kernel_size, case.inputs, case.outputs), case.dtype)
    return geometry_of(x, kernel, case.stride, case.padding)


def served(calls):
    """The distinct convolutions of a network's calls that have a kernel, and what is pending."""
    calls = {(geometry(case), case.pending) for case in calls}
    return sorted(
        (call for call in calls if mosaic_gpu_conv.conv_refusal(call[0], "bfloat16") is None),
        key=str,
    )


def lowered(sizes, pending):
    """The convolution alone, for an H200."""
    if reason := assembly.missing():
        pytest.skip(reason)
    machine = aot.target("gpu:h200")
    sharding = jax.sharding.SingleDeviceSharding(machine.devices[0])
    shaped = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    vector = shaped((sizes.inputs,), jnp.float32)
    convolution = functools.partial(
        mosaic_gpu_conv.conv_stats, geometry=sizes, activation="relu" if pending else "none"
    )
    with dispatch.target(machine.chip.device_kind):
        return jax.jit(convolution).lower(
            shaped((sizes.batch, sizes.height, sizes.width, sizes.inputs), jnp.bfloat16),
            shaped((*sizes.kernel_size, sizes.inputs, sizes.outputs), jnp.bfloat16),
            Affine(vector, vector, vector) if pending else None,
        )


# Accumulators of 128 registers, and all that a kernel can do.
LARGEST = geometry(Case(128, 28, 28, 128, 128, 3)), True
# In another batch the tiles are others, whatever the numbers of channels.
CALLS = [
    *served(cases.resnet50(128)),
    *served(cases.resnet20(128, "bfloat16")),
    *testing.one_of_each(
        served((*cases.resnet50(7), *cases.resnet50(1))),
        lambda call: (call[0].batch, call[0].space, call[0].is_3x3, call[1]),
    ),
]


@pytest.mark.parametrize(
    "call",
    [
        LARGEST,
        *(pytest.param(call, marks=pytest.mark.slow) for call in CALLS if call != LARGEST),
    ],
    ids=str,
)
def test_every_kernel_assembles_without_a_spill(call):
    sizes, _ = call
    (kernel,) = assembly.assemble(lowered(*call))
    assert kernel.name == ("conv_stats_3x3" if sizes.is_3x3 else "conv_stats_1x1")
    assert kernel.spilled_bytes == 0
    assert kernel.tensor_instructions > 0


@pytest.mark.parametrize("outputs", [64, 128])
@pytest.mark.parametrize("width", [None, 1, 56, 112, 113, 224, mosaic_gpu_plan.MAXIMUM_WIDTH])
def test_shared_memory_has_room_for_all_buffers(width, outputs):
    for rows, pending in itertools.product((128, 256), (False, True)):
        image = None if width is None else (1, width)
        plan = mosaic_gpu_plan.Plan(rows, 64, outputs, image, pending, "relu")
        assert min(plan.kernel_slots, plan.row_slots) > 0
        buffers = mosaic_gpu_product.scratch(plan).values()
        taken = sum(
            math.prod(buffer.shape) * jnp.dtype(buffer.dtype).itemsize
            for buffer in buffers
            if not isinstance(buffer, plgpu.Barrier)
        )
        # 2 KiB are for the sums over lanes, and some for barriers.
        assert taken + 4096 <= 232448


def test_no_convolution_of_a_large_batch_is_filled_up():
    for batch in (128, 256):
        for sizes, _ in served(cases.resnet50(batch)):
            assert sizes.rows % 128 == sizes.inputs % 64 == sizes.outputs % 64 == 0


@pytest.mark.slow
def test_shifted_rows_are_copied_from_wherever_they_begin(monkeypatch):
    # Within tiles of eight rows a copy from another row than every eighth would leave out what is
    # in the next tile; the interpreter would not see that.
    codes = []
    read = assembly._read
    monkeypatch.setattr(
        assembly, "_read", lambda report, code: codes.append(code) or read(report, code)
    )
    assembly.assemble(lowered(*LARGEST))
    (code,) = codes
    copies = re.findall(r"bulk\.tensor\.(\d)d\.shared", code)
    # Of three vectors; of rows and of their ends, two copies each; of the kernel, in tiles.
    assert sorted(copies) == ["2", "3", "3", "4", "4", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_the_kernel_is_in_the_program(lower, size):
    case = Case(1, 7, 7, 64, 64, size, pending=True)
    program = aot.compile_for(*lower("gpu:h200", "mosaic_gpu", case))
    assert program.kernels.count(f"conv_stats_{size}x{size}") == 1
