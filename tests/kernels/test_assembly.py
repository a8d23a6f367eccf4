"""Kernels for a GPU taken to machine code without one."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels import aot, assembly

X = ((64, 128), jnp.float32)


@pytest.fixture
def lowered():
    """`lowered(body)`: a kernel of that body, for an H200."""
    if reason := assembly.missing():
        pytest.skip(reason)
    sharding = jax.sharding.SingleDeviceSharding(aot.target("gpu:h200").devices[0])

    def lower(body):
        kernel = plgpu.kernel(body, out_type=jax.ShapeDtypeStruct(*X))
        return jax.jit(kernel).lower(jax.ShapeDtypeStruct(*X, sharding=sharding))

    return lower


def test_a_kernel_is_compiled_and_its_registers_are_counted(lowered):
    def double(source, out):
        whole = {"layout": plgpu.Layout.WGMMA, "optimized": False}
        plgpu.store(out, 2 * plgpu.load(source, **whole), optimized=False)

    (kernel,) = assembly.assemble(lowered(double))
    assert kernel.name == "double"
    assert 0 < kernel.registers <= 255
    assert (kernel.spilled_bytes, kernel.tensor_instructions) == (0, 0)


def test_a_program_without_kernels_has_none(lowered):
    del lowered
    assert assembly.assemble(jax.jit(jnp.sin).lower(1.0)) == []


def test_spills_and_matrix_instructions_are_read_from_the_compilers_report():
    report = (
        "ptxas info    : Compiling entry function 'name_mosaic_gpu_kernel' for 'sm_90a'\n"
        "    96 bytes stack frame, 88 bytes spill stores, 44 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers\n"
    )
    code = "wgmma.mma_async.sync.aligned.m64n16k16\nwgmma.wait_group.sync.aligned 0;\n"
    assert assembly._read(report, code) == assembly.Assembly("name", 255, 132, 1)


def test_code_that_is_none_raises_with_what_the_compiler_says(lowered):
    del lowered
    with pytest.raises(RuntimeError, match="exit code"):
        assembly._assemble(b"no module")
