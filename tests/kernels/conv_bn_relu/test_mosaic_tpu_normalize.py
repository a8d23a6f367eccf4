"""The TPU's passes over rows and channels, interpreted, and compiled for the networks' shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import aot, dispatch, testing
from kernels.conv_bn_relu import cases, mosaic_tpu, xla
from kernels.conv_bn_relu.types import Affine


def draw(rows, channels, dtype):
    random = np.random.default_rng(0)
    arrays = random.standard_normal((3, rows, channels), np.float32)
    vectors = random.standard_normal((5, channels), np.float32)
    raw, other, cotangent = (jnp.asarray(array, dtype) for array in arrays)
    return raw, other, cotangent, Affine(*map(jnp.asarray, vectors[:3])), *vectors[3:]


def passes(primitives, raw, other, cotangent, affine, slope, offset, *, activation="relu"):
    """Every pass, with and without its optional array."""
    options = {"activation": activation}
    outputs = primitives.normalize(raw, affine, other, **options)
    return {
        "normalize": primitives.normalize(raw, affine, None, **options),
        "with residual": outputs,
        "sums": primitives.cotangent_sums(raw, affine, None, cotangent, **options),
        "sums by outputs": primitives.cotangent_sums(raw, affine, outputs, cotangent, **options),
        "cotangent": primitives.cotangent(raw, affine, cotangent, slope, offset, **options),
    }


# 4 MiB in float32 are a tile: 8192 rows of up to 128 channels, 512 of 2048, which are a tile's all.
SHAPES = [
    (21, 5, "bfloat16", "relu"),
    pytest.param(1, 1, "float32", "none", marks=pytest.mark.slow),
    pytest.param(1, 3, "bfloat16", "relu", marks=pytest.mark.slow),
    pytest.param(35, 129, "float32", "relu", marks=pytest.mark.slow),
    pytest.param(8193, 17, "float32", "relu", marks=pytest.mark.slow),
    pytest.param(515, 2048, "bfloat16", "none", marks=pytest.mark.slow),
    pytest.param(19, 2500, "bfloat16", "relu", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("rows", "channels", "dtype", "activation"), SHAPES)
def test_they_are_as_right_as_xla_s(rows, channels, dtype, activation):
    arguments = draw(rows, channels, dtype)
    run = functools.partial(passes, activation=activation)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), arguments)
        right = jax.tree.map(np.asarray, exact(*wide, activation=activation))
    other = jax.jit(functools.partial(run, xla))(*arguments)
    with testing.interpreted("mosaic_tpu"):
        result = jax.jit(functools.partial(run, mosaic_tpu))(*arguments)
        testing.assert_as_right_as_xla(result, other, right, dtype)


def exact(raw, other, cotangent, affine, slope, offset, *, activation):
    """`passes` by its equations, in the arguments' dtype."""
    relu = activation == "relu"
    centered = raw - affine.mean
    before = centered * affine.factor + affine.bias
    outputs = before + other
    inside = cotangent * (before > 0) if relu else cotangent
    by_outputs = cotangent * (jnp.maximum(outputs, 0) > 0) if relu else cotangent * (outputs > 0)

    def sums(values):
        return values.sum(0), (values * centered).sum(0), centered.sum(0)

    return {
        "normalize": jnp.maximum(before, 0) if relu else before,
        "with residual": jnp.maximum(outputs, 0) if relu else outputs,
        "sums": (sums(inside), None),
        "sums by outputs": (sums(by_outputs), by_outputs),
        "cotangent": affine.factor * inside + slope * centered + offset,
    }


def test_a_nan_stays_in_its_channel():
    arguments = draw(21, 5, "float32")
    raw = arguments[0].at[7, 2].set(jnp.nan)
    with testing.interpreted("mosaic_tpu"):
        results = jax.jit(functools.partial(passes, mosaic_tpu))(raw, *arguments[1:])
    for result in jax.tree.leaves(results):
        others = result[..., np.array([0, 1, 3, 4])]
        assert np.isfinite(others).all()
    # As XLA's passes, they do not hide it.
    assert np.isnan(results["normalize"][7, 2])
    assert np.isnan(results["cotangent"][7, 2])
    assert np.isnan(results["sums"][0].products[2])


def compiled(chip, rows, channels, dtype, batches=()):
    machine = aot.target(f"tpu:{chip}")
    if reason := aot.missing(machine.chip.platform):
        pytest.skip(reason)
    sharding = jax.sharding.SingleDeviceSharding(machine.devices[0])

    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((*batches, *sizes), jnp.dtype(dtype), sharding=sharding)

    array, vector = shape(rows, channels, dtype=dtype), shape(channels)
    arguments = [array] * 3 + [Affine(vector, vector, vector)] + [vector] * 2
    run = functools.partial(passes, mosaic_tpu)
    for _ in batches:
        run = jax.vmap(run)
    with dispatch.target(machine.chip.device_kind):
        work = jax.jit(run).lower(*arguments)
    return aot.compile_for(machine, work)


def normalized(batch):
    """Rows, channels and dtype of what the two networks normalize."""
    networks = cases.resnet50(batch) + cases.resnet20(batch)
    return dict.fromkeys((case.geometry.rows, case.outputs, case.dtype) for case in networks)


NAMES = ["normalize"] * 2 + ["normalize_cotangent"] + ["normalize_sums"] * 2
FAST = (25088, 1024, "bfloat16")


def different(shapes):
    """For another chip or batch the tiles are others, whatever the number of channels."""
    return testing.one_of_each(shapes, lambda shape: (shape[0], shape[2]))


SWEEP = [
    *(("v5e", shape) for shape in normalized(128)),
    *(("v5e", shape) for batch in (7, 1) for shape in different(normalized(batch))),
    *(("v6e", shape) for shape in different(normalized(128))),
]


@pytest.mark.parametrize(
    ("chip", "shape"),
    [
        pytest.param(*work, marks=() if work == ("v5e", FAST) else pytest.mark.slow)
        for work in SWEEP
    ],
)
def test_they_compile_for_the_networks_and_move_no_more_than_they_must(chip, shape):
    program = compiled(chip, *shape)
    assert sorted(program.kernels) == NAMES
    rows, channels, dtype = shape
    # Read and written: 2 and 3 in the two forms of normalize, 2 and 4 in the sums, 3 in the last.
    arrays = 14 * rows * channels * jnp.dtype(dtype).itemsize
    # The vectors, and the sums of tiles of at least 512 rows.
    vectors = (20 + 2 * 3 * (2 + rows / 512)) * channels * 4
    assert arrays <= program.kernel_bytes <= arrays + vectors


@pytest.mark.slow
def test_they_compile_under_vmap():
    assert sorted(compiled("v5e", 100, 16, "bfloat16", (3,)).kernels) == NAMES
