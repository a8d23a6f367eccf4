"""The measure of the proofs can fail, and so can an interpreted kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu

from kernels import dispatch, testing
from kernels.hopper import store

ONES = np.ones((64, 128), np.float32)
RESULT = jax.ShapeDtypeStruct(ONES.shape, ONES.dtype)


def test_the_error_is_the_norm_of_the_difference_over_the_norm_of_what_is_right():
    assert testing.error([3.0, 5.0], [3.0, 4.0]) == pytest.approx(0.2)
    assert testing.error([0.5], [0.0]) == 0.5


@pytest.mark.parametrize(
    ("result", "xla", "fails"),
    [
        (1 + 3e-7, 1.0, False),
        (1 + 1e-6, 1.0, True),
        (1 + 1e-6, 1 + 6e-7, False),
        (1 + 1.3e-6, 1 + 6e-7, True),
        (np.nan, 1.0, True),
        (np.nan, np.nan, True),
    ],
)
def test_twice_the_error_of_xla_or_four_units_in_the_last_place_are_allowed(result, xla, fails):
    trees = [{"a": {"b": np.array([value])}} for value in (result, xla, 1.0)]
    if not fails:
        testing.assert_as_right_as_xla(*trees, jnp.float32)
        return
    with pytest.raises(AssertionError, match=r"\['a'\]\['b'\]"):
        testing.assert_as_right_as_xla(*trees, jnp.float32)


def test_trees_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="zip"):
        testing.assert_as_right_as_xla([ONES], [ONES, ONES], [ONES], jnp.float32)


def copy_on_tpu(ones, wait_first):
    def body(source, out, landing, semaphore):
        copy = pltpu.make_async_copy(source, landing, semaphore)
        copy.start()
        if wait_first:
            copy.wait()
        out[...] = landing[...]
        if not wait_first:
            copy.wait()

    return pl.pallas_call(
        body,
        in_specs=[pl.BlockSpec(memory_space=pl.ANY)],
        out_shape=RESULT,
        scratch_shapes=[pltpu.VMEM(ONES.shape, jnp.float32), pltpu.SemaphoreType.DMA],
    )(ones)


def share_on_gpu(ones, threads):
    def body(source, out, shared):
        whole = {"layout": plgpu.Layout.WGMMA, "optimized": False}
        store(shared, plgpu.load(source, **whole))

        @pl.when(lax.axis_index("thread") == 0)
        def _():
            store(out, plgpu.load(shared, **whole))

    return plgpu.kernel(
        body,
        out_type=RESULT,
        scratch_types=[plgpu.SMEM(ONES.shape, jnp.float32)],
        num_threads=threads,
        thread_name="thread",
    )(ones)


@pytest.mark.parametrize(
    ("implementation", "kernel", "right", "racy"),
    [
        ("mosaic_tpu", copy_on_tpu, True, False),
        pytest.param("mosaic_gpu", share_on_gpu, 1, 2),
    ],
)
def test_a_race_raises(implementation, kernel, right, racy):
    with testing.interpreted(implementation):
        np.testing.assert_array_equal(kernel(ONES, right), ONES)
        with pytest.raises(jax.errors.JaxRuntimeError, match="RACE DETECTED"):
            jax.block_until_ready(kernel(ONES, racy))
        np.testing.assert_array_equal(kernel(ONES, right), ONES)


def read_before_writing_on_tpu(ones):
    def body(source, out, scratch):
        out[...] = source[...] + scratch[...]

    scratch = [pltpu.VMEM(ONES.shape, jnp.float32)]
    return pl.pallas_call(body, out_shape=RESULT, scratch_shapes=scratch)(ones)


def read_before_writing_on_gpu(ones):
    def body(source, out, scratch):
        del source
        whole = {"layout": plgpu.Layout.WGMMA, "optimized": False}
        store(out, plgpu.load(scratch, **whole))

    scratch = [plgpu.SMEM(ONES.shape, jnp.float32)]
    return plgpu.kernel(body, out_type=RESULT, scratch_types=scratch)(ones)


@pytest.mark.parametrize(
    ("implementation", "kernel"),
    [
        ("mosaic_tpu", read_before_writing_on_tpu),
        pytest.param("mosaic_gpu", read_before_writing_on_gpu),
    ],
)
def test_memory_begins_as_nan(implementation, kernel):
    with testing.interpreted(implementation):
        assert np.isnan(kernel(ONES)).all()


def test_calls_are_for_the_device_that_is_interpreted():
    with testing.interpreted("mosaic_tpu"):
        assert dispatch.device_kind() == "tpu"
    assert dispatch.device_kind() == "cpu"
