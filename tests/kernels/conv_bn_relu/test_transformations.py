"""The kernels within vmap, scan, remat, shard_map and pmap.

They compile there, in a bottleneck of a residual network, where all of them occur. Their values are
shown where an interpreter can: those of GPUs know no remat and no second device.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import aot, dispatch, testing
from kernels.conv_bn_relu import Normalization, cases, conv_bn_relu, conv_stats, normalize

SPLIT, WHOLE = PartitionSpec("images"), PartitionSpec()
FORWARD = {"conv_stats_1x1": 2, "conv_stats_3x3": 1, "normalize": 1}
# Each convolution that normalized what it read does so again.
BACKWARD = {"normalize": 2, "normalize_sums": 3, "normalize_cotangent": 3}


def bottleneck(params, x, *, implementation, axis_name=None):
    """The mean of the block's output."""
    options = {"axis_name": axis_name, "implementation": implementation}
    raw, pending = x, None
    for kernel, scale, bias in params:
        raw, statistics = conv_stats(raw, kernel, pending, **options)
        pending = Normalization(*statistics, scale, bias, axis_name=axis_name)
    y = normalize(raw, pending, x, implementation=implementation)
    return y.astype(jnp.float32).mean()


def operands():
    sizes = ((1, 64, 64), (3, 64, 64), (1, 64, 64))
    params = [
        (jnp.ones((size, size, inputs, outputs)), jnp.ones(outputs), jnp.ones(outputs))
        for size, inputs, outputs in sizes
    ]
    return params, jnp.ones((8, 4, 4, 64), jnp.bfloat16)


def lowered(machine, transformation):
    """Value and gradients within a transformation, for the devices of a machine."""
    name = "mosaic_tpu" if machine.chip.platform == "tpu" else "mosaic_gpu"
    devices = machine.devices
    if transformation in ("vmap", "remat"):
        devices = devices[:1]
    mesh = Mesh(np.array(devices), ("images",))
    loss = functools.partial(bottleneck, implementation=name)
    gradients = jax.value_and_grad(loss, (0, 1))
    synchronized = jax.value_and_grad(functools.partial(loss, axis_name="images"), (0, 1))

    def step(params, x):
        value, (shared, own) = synchronized(params, x)
        return jax.lax.psum((value, shared), "images"), own

    params, x = jax.eval_shape(operands)
    leading = {"vmap": (3,), "pmap": (len(devices),)}.get(transformation, ())

    def shaped(spec, array):
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct((*leading, *array.shape), array.dtype, sharding=sharding)

    split = SPLIT if transformation in ("shard_map", "pmap") else WHOLE
    params = jax.tree.map(functools.partial(shaped, split if leading else WHOLE), params)
    transformed = {
        "vmap": jax.jit(jax.vmap(gradients)),
        "remat": jax.jit(jax.value_and_grad(jax.checkpoint(loss), (0, 1))),
        "shard_map": jax.jit(
            jax.shard_map(
                step,
                mesh=mesh,
                in_specs=(WHOLE, SPLIT),
                out_specs=(WHOLE, SPLIT),
                check_vma=False,
            )
        ),
        "pmap": jax.pmap(step, "images", devices=devices),
    }[transformation]
    with dispatch.target(machine.chip.device_kind):
        return transformed.lower(params, shaped(split, x))


@pytest.mark.slow
@pytest.mark.parametrize("transformation", ["vmap", "remat", "shard_map", "pmap"])
@pytest.mark.parametrize("name", ["tpu:v5e:2x2", "gpu:h200:1x4"])
def test_the_kernels_compile_within_a_transformation(name, transformation):
    machine = aot.target(name)
    if reason := aot.missing(machine.chip.platform):
        pytest.skip(reason)
    program = aot.compile_for(machine, lowered(machine, transformation))
    expected = {
        kernel: FORWARD.get(kernel, 0) + BACKWARD.get(kernel, 0)
        for kernel in {**FORWARD, **BACKWARD}
    }
    found = {kernel: program.kernels.count(kernel) for kernel in program.kernels}
    if transformation == "remat":
        expected = {kernel: count + FORWARD.get(kernel, 0) for kernel, count in expected.items()}
    if (name, transformation) == ("gpu:h200:1x4", "vmap"):
        # The rule by which Mosaic GPU is mapped gives a kernel another name.
        expected = {"batched_body": sum(expected.values())}
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", ["tpu:v5e", "gpu:h200"])
def test_the_kernels_compile_where_64_bits_are_the_default(lower, name, size):
    case = cases.Case(16, 8, 8, 64, 64, size, pending=True)
    with jax.enable_x64(True):
        program = aot.compile_for(*lower(name, f"mosaic_{name[:3]}", case))
    assert {f"conv_stats_{size}x{size}", *BACKWARD} == set(program.kernels)


def within(transformation, step, operands):
    """A step's results within a transformation, for two halves of a batch or two calls."""
    if transformation == "shard_map":
        mesh = Mesh(np.array(jax.devices()[:2]), ("images",))
        specs = cases.Operands(SPLIT, WHOLE, WHOLE, WHOLE, None, None)
        options = {"in_specs": (specs,), "out_specs": SPLIT, "check_vma": False}
        return jax.jit(jax.shard_map(step, mesh=mesh, **options))(operands)
    two = jax.tree.map(lambda array: jnp.stack([array, 2 * array]), operands)
    if transformation == "vmap":
        return jax.jit(jax.vmap(step))(two)
    return jax.jit(lambda two: jax.lax.scan(lambda _, one: (None, step(one)), None, two)[1])(two)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("implementation", "transformation"),
    [
        ("mosaic_tpu", "vmap"),
        ("mosaic_tpu", "scan"),
        ("mosaic_tpu", "shard_map"),
        ("mosaic_gpu", "scan"),
        ("mosaic_gpu", "vmap"),
    ],
)
def test_values_within_a_transformation_are_those_of_xla(implementation, transformation, size):
    operands = cases.draw(cases.Case(2, 2, 3, 5, 7, size)).operands

    def step(implementation, operands):
        def loss(operands):
            x, kernel, scale, bias, *_ = operands
            axis = "images" if transformation == "shard_map" else None
            y, _ = conv_bn_relu(
                x, kernel, scale, bias, axis_name=axis, implementation=implementation
            )
            return jnp.square(y.astype(jnp.float32)).mean()

        return jax.grad(loss)(operands).x

    expected = within(transformation, functools.partial(step, "xla"), operands)
    mode = testing.interpreted(implementation)
    if (implementation, transformation) == ("mosaic_tpu", "vmap"):
        mode = testing.interpreted_within_transformations()
    with mode:
        result = within(transformation, functools.partial(step, implementation), operands)
        assert testing.error(result, expected) < 2 * float(jnp.finfo(jnp.bfloat16).eps)
