"""Programs compiled for machines that are not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import aot, dispatch

SPLIT, WHOLE = PartitionSpec("x"), PartitionSpec()


def machine(name):
    found = aot.target(name)
    if reason := aot.missing(found.chip.platform):
        pytest.skip(reason)
    return found


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("tpu:v5e", "TPU v5 lite", 4),
        ("tpu:v5e:8x8", "TPU v5 lite", 64),
        ("tpu:v5p", "TPU v5", 4),
        ("tpu:v6e:4x4", "TPU v6 lite", 16),
        ("gpu:h200", "NVIDIA H200", 1),
        ("gpu:h100:1x8", "NVIDIA H100 80GB HBM3", 8),
        ("gpu:a100:2x8", "NVIDIA A100-SXM4-80GB", 16),
    ],
)
def test_a_target_has_the_devices_of_its_name(name, kind, count):
    devices = machine(name).devices
    assert [device.device_kind for device in devices] == [kind] * count


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("v5e", "it is tpu:CHIP:AxB or gpu:CHIP:AxB, CHIP one of v5e, v5p, v6e, a100, h100, h200"),
        ("tpu:v4", "it is tpu:CHIP"),
        ("tpu:v5e:8by8", "it is tpu:CHIP"),
        ("tpu:h200", "h200 is not a TPU"),
        ("gpu:v5e:2x2", "v5e is not a GPU"),
        ("tpu:v5e:0x0", "each number of 0x0 must be from 1 to 9999"),
        ("gpu:h200:0x8", "each number of 0x8 must be from 1 to 9999"),
        ("gpu:h200:1x99999999", "each number of 1x99999999 must be from 1 to 9999"),
        ("gpu:h200:8", "8 must be HOSTSxGPUS"),
        ("gpu:h200:1x2x3", "1x2x3 must be HOSTSxGPUS"),
        ("gpu:h200:9999x8", "9999x8 are more than 16384 chips"),
    ],
)
def test_a_name_that_is_none_is_refused(name, reason):
    with pytest.raises(ValueError, match=f"target '{name}': .*{reason}"):
        aot.target(name)


def test_a_topology_that_a_chip_has_not_is_refused():
    odd = machine("tpu:v5e:3x5")
    with pytest.raises(ValueError, match="target 'tpu:v5e:3x5' is not available"):
        _ = odd.devices


@pytest.mark.parametrize(("name", "count"), [("tpu:v5e:2x2", 4), ("gpu:h200:1x8", 8)])
def test_memory_operations_and_collectives_of_a_program_are_counted(name, count):
    target = machine(name)
    mesh = Mesh(np.array(target.devices), ("x",))
    rows, size = 128 * count, 1024

    def shaped(shape, spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))

    def product(a, b):
        return jnp.matmul(a, b, precision="highest").sum()

    lowered = jax.jit(product).lower(shaped((rows, size), SPLIT), shaped((size, size), WHOLE))
    program = aot.compile_for(target, lowered)
    # What a device holds: its rows, and the whole other matrix.
    assert program.argument_bytes == 4 * (rows // count + size) * size
    assert program.peak_bytes >= program.argument_bytes
    assert program.collectives == {"all-reduce": 1}
    assert program.kernels == ()
    if target.chip.platform == "tpu":
        # On a GPU the product is a library's, which XLA does not count.
        assert program.flops >= 2 * rows // count * size * size


def test_a_pallas_kernel_is_found_by_its_name():
    target = machine("tpu:v5e:2x2")
    x = jax.ShapeDtypeStruct(
        (8, 128), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(target.devices[0])
    )

    def double(source, out):
        out[...] = 2 * source[...]

    def twice(x):
        call = pl.pallas_call(double, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), name="dbl")
        return call(jnp.sin(call(x)))

    with dispatch.target(target.chip.device_kind):
        program = aot.compile_for(target, jax.jit(twice).lower(x))
    assert program.kernels == ("dbl", "dbl")
    # Each reads and writes a float32 array.
    assert program.kernel_bytes == 2 * 2 * 4 * 8 * 128
    assert aot.compile_for(target, jax.jit(jnp.sin).lower(x)).kernels == ()


@pytest.mark.parametrize(
    ("rows", "scratch", "memory"), [(2**25, 8, "available HBM"), (8, 2**22, "space=vmem")]
)
def test_what_needs_more_memory_than_a_device_has_does_not_fit(rows, scratch, memory):
    target = machine("tpu:v5e:2x2")
    sharding = jax.sharding.SingleDeviceSharding(target.devices[0])
    x = jax.ShapeDtypeStruct((rows, 128), jnp.float32, sharding=sharding)
    block = pl.BlockSpec((8, 128), lambda number: (number, 0))

    def double(source, out, between):
        between[:8] = 2 * source[...]
        out[...] = between[:8]

    lowered = jax.jit(
        pl.pallas_call(
            double,
            out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
            grid=(rows // 8,),
            in_specs=[block],
            out_specs=block,
            scratch_shapes=[pltpu.VMEM((scratch, 128), jnp.float32)],
        )
    ).lower(x)
    with pytest.raises(aot.DoesNotFitError, match=memory) as caught:
        aot.compile_for(target, lowered)
    assert "\n" not in str(caught.value)


def test_what_fails_to_compile_for_another_reason_is_not_said_to_be_too_large():
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a bug"):
        aot.compile_for(aot.target("tpu:v5e"), Lowered())


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert aot.missing("tpu") == "the compiler for tpu is not installed: make compilers"
