"""The TPU's convolutions: which are served, and that those of the two networks compile."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from kernels import aot, dispatch, testing
from kernels.conv_bn_relu import cases, mosaic_tpu
from kernels.conv_bn_relu.cases import Case
from kernels.conv_bn_relu.types import Affine, Geometry


def lowered(chip, case, batches=()):
    """A target, and `conv_stats` lowered for it; under vmap over `batches`."""
    machine = aot.target(f"tpu:{chip}")
    if reason := aot.missing(machine.chip.platform):
        pytest.skip(reason)
    sharding = jax.sharding.SingleDeviceSharding(machine.devices[0])

    def shape(*sizes, dtype=case.dtype):
        return jax.ShapeDtypeStruct((*batches, *sizes), jnp.dtype(dtype), sharding=sharding)

    geometry = case.geometry
    run = functools.partial(mosaic_tpu.conv_stats, geometry=geometry, activation="relu")
    for _ in batches:
        run = jax.vmap(run)
    x = shape(geometry.batch, geometry.height, geometry.width, geometry.inputs)
    kernel = shape(*geometry.kernel_size, geometry.inputs, geometry.outputs)
    vector = shape(geometry.inputs, dtype=jnp.float32)
    pending = Affine(vector, vector, vector) if case.pending else None
    with dispatch.target(machine.chip.device_kind):
        return machine, jax.jit(run).lower(x, kernel, pending)


def served(chip, batch):
    """The convolutions of the two networks for which there is a kernel."""
    networks = cases.resnet50(batch) + cases.resnet20(batch)
    with dispatch.target(aot.CHIPS[chip].device_kind):
        return [case for case in networks if not mosaic_tpu.conv_refusal(case.geometry, case.dtype)]


def different(cases):
    """For another chip or batch the tiles are others, whatever the numbers of channels."""
    return testing.one_of_each(cases, lambda case: (case.kernel_size, case.stride, case.height))


FAST = Case(128, 14, 14, 256, 256, 3, 1, pending=True)
SWEEP = [
    *(("v5e", case) for case in served("v5e", 128)),
    *(("v5e", case) for batch in (7, 1) for case in different(served("v5e", batch))),
    *(("v6e", case) for case in different(served("v6e", 128))),
    *(("v5p", case) for case in served("v5p", 128) if case.inputs * case.outputs >= 512 * 512),
]


@pytest.mark.parametrize(
    ("chip", "case"),
    [
        pytest.param(*work, marks=() if work == ("v5e", FAST) else pytest.mark.slow)
        for work in SWEEP
    ],
    ids=str,
)
def test_each_convolution_of_the_networks_compiles_and_is_in_the_program(chip, case):
    program = aot.compile_for(*lowered(chip, case))
    assert program.kernels == (f"conv_stats_{case.kernel_size}x{case.kernel_size}",)


@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e"])
def test_all_of_them_are_served_but_the_first_and_those_of_stride_2(chip):
    left = {case for case in cases.resnet50(128) if case not in served(chip, 128)}
    assert {(case.kernel_size, case.stride) for case in left} == {(7, 2), (3, 2)}
    left = {case for case in cases.resnet20(128) if case not in served(chip, 128)}
    assert {(case.kernel_size, case.stride) for case in left} == {(3, 2)}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.slow
def test_it_compiles_under_vmap(size):
    program = aot.compile_for(*lowered("v5e", Case(16, 8, 8, 16, 32, size, pending=True), (3,)))
    assert program.kernels == (f"conv_stats_{size}x{size}",)


@pytest.mark.parametrize("case", [FAST, Case(128, 14, 14, 1024, 256)], ids=str)
@pytest.mark.slow
def test_nothing_is_laid_out_anew_around_it(case):
    machine, work = lowered("v5e", case)
    program = aot.compile_for(machine, work)
    image = case.batch * case.height * case.width * 2
    moved = (
        image * (case.inputs + case.outputs) + 2 * case.kernel_size**2 * case.inputs * case.outputs
    )
    assert program.kernel_bytes <= 1.01 * moved
    # Neither input nor output is copied on the way.
    assert program.temporary_bytes < 0.1 * image * min(case.inputs, case.outputs)


@pytest.mark.parametrize(
    ("reason", "geometry"),
    [
        (None, Geometry(1, 1, 1, 1, 1, (1, 1), (1, 1), ((0, 0), (0, 0)))),
        (None, Geometry(7, 9, 5, 2048, 2048, (1, 1), (2, 3), ((0, 0), (0, 0)))),
        (None, Geometry(128, 56, 56, 64, 64, (3, 3), (1, 1), ((1, 1), (1, 1)))),
        ("not 7x7", Geometry(2, 224, 224, 3, 64, (7, 7), (2, 2), ((3, 3), (3, 3)))),
        ("of strides .2, 2.", Geometry(2, 8, 8, 3, 64, (3, 3), (2, 2), ((1, 1), (1, 1)))),
        ("with padding ..0, 0.", Geometry(2, 8, 8, 3, 64, (3, 3), (1, 1), ((0, 0), (0, 0)))),
        ("1x1 of strides .1, 1. with", Geometry(2, 8, 8, 3, 4, (1, 1), (1, 1), ((1, 1), (1, 1)))),
        (None, Geometry(2, 224, 224, 64, 64, (3, 3), (1, 1), ((1, 1), (1, 1)))),
        (
            "a tile of 7x7 images with 2048 to 2048 channels need 1.. MiB of VMEM, and 96 are",
            Geometry(2, 7, 7, 2048, 2048, (3, 3), (1, 1), ((1, 1), (1, 1))),
        ),
        (
            "8x8 images with 8192 to 8192 channels need",
            Geometry(2, 8, 8, 8192, 8192, (1, 1), (1, 1), ((0, 0), (0, 0))),
        ),
    ],
)
def test_what_is_not_served_is_refused_with_the_reason(reason, geometry):
    with dispatch.target("TPU v5 lite"):
        told = mosaic_tpu.conv_refusal(geometry, jnp.bfloat16)
    assert (told is None) == (reason is None)
    if reason:
        assert re.search(reason, told)


def test_less_fits_in_half_the_memory():
    geometry = Geometry(2, 7, 7, 768, 768, (3, 3), (1, 1), ((1, 1), (1, 1)))
    with dispatch.target("TPU v5 lite"):
        assert mosaic_tpu.conv_refusal(geometry, jnp.float32) is None
    with dispatch.target("TPU v5"):
        assert "need 70 MiB of VMEM, and 48 are" in mosaic_tpu.conv_refusal(geometry, jnp.float32)
