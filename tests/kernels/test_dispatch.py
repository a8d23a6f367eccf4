"""Which implementation serves a call, and what is said of the others."""

import concurrent.futures

import jax
import jax.numpy as jnp
import pytest

from kernels import dispatch

ABLE = {"reference": None, "xla": None, "mosaic_gpu": None, "mosaic_tpu": "too large"}
SHAPE = {"batch": 16, "time": 64, "hidden": 128}


@pytest.fixture
def measured(monkeypatch):
    """`measured(kind, rows)` is what the benchmark wrote for a kind of device."""

    def measure(kind, rows):
        tables = {("lstm", kind): rows}
        monkeypatch.setattr(
            dispatch, "measurements", lambda operation, kind: tables.get((operation, kind), [])
        )

    return measure


def row(hidden, dtype="bfloat16", **seconds):
    return {"shape": {**SHAPE, "hidden": hidden}, "dtype": dtype, "seconds": seconds}


def choose(implementation="auto", refusals=ABLE, dtype=jnp.bfloat16, substitute="", **sizes):
    facts = (refusals, SHAPE | sizes, jnp.dtype(dtype))
    return dispatch.choose("lstm", implementation, *facts, substitute=substitute)


@pytest.mark.parametrize(
    ("kind", "platform"),
    [
        ("NVIDIA H200", "gpu"),
        ("gpu", "gpu"),
        ("TPU v5 lite", "tpu"),
        ("tpu", "tpu"),
        ("cpu", "cpu"),
    ],
)
def test_a_kind_of_device_belongs_to_a_platform(kind, platform):
    assert dispatch.platform(kind) == platform


def test_each_implementation_says_whether_it_serves_or_why_not():
    with dispatch.target("NVIDIA H200"):
        assert dispatch.explain({**ABLE, "mosaic_gpu": "no bfloat16"}) == {
            "reference": "serves",
            "xla": "serves",
            "mosaic_gpu": "no bfloat16",
            "mosaic_tpu": "it needs a TPU, not NVIDIA H200",
        }


@pytest.mark.parametrize(
    ("kind", "served"),
    [
        ("NVIDIA H100 80GB HBM3", True),
        ("NVIDIA H200", True),
        ("NVIDIA H20", True),
        ("NVIDIA H800", True),
        ("NVIDIA GH200 480GB", True),
        ("gpu", True),
        ("NVIDIA A100-SXM4-80GB", False),
        ("NVIDIA B200", False),
        ("NVIDIA RTX 2000 Ada Generation", False),
    ],
)
def test_the_kernels_for_hopper_are_refused_on_other_gpus(kind, served):
    with dispatch.target(kind):
        told = dispatch.explain(ABLE)
    assert told["mosaic_gpu"] == ("serves" if served else f"it needs a Hopper GPU, not {kind}")
    assert told["xla"] == "serves"


@pytest.mark.parametrize(
    ("kind", "size"),
    [("TPU v5 lite", 96), ("TPU v6 lite", 96), ("tpu", 96), ("TPU v5", 48), ("TPU v9", 48)],
)
def test_a_kernel_may_take_three_quarters_of_the_vector_memory(kind, size):
    with dispatch.target(kind):
        assert dispatch.vmem_bytes() == size * 2**20


def test_where_nothing_was_measured_xla_serves():
    reason = "nothing was measured on cpu for bfloat16"
    assert choose() == dispatch.Choice("lstm", "xla", reason)


def test_the_fastest_at_the_nearest_measured_shape_serves(measured):
    measured("NVIDIA H200", [row(64, mosaic_gpu=1.0, xla=2.0), row(512, mosaic_gpu=3.0, xla=2.0)])
    with dispatch.target("NVIDIA H200"):
        assert choose(hidden=100).implementation == "mosaic_gpu"
        assert choose(hidden=400).implementation == "xla"
        assert "measured on NVIDIA H200" in choose(hidden=400).reason
        # Measured for another dtype, or on another device, is not measured.
        assert choose(hidden=100, dtype=jnp.float32).implementation == "xla"
    with dispatch.target("NVIDIA H100"):
        assert choose(hidden=100).implementation == "xla"


def test_what_cannot_serve_is_not_picked_however_fast(measured):
    measured("NVIDIA H200", [row(64, mosaic_gpu=1.0, cudnn=0.1, xla=3.0, reference=2.0)])
    with dispatch.target("NVIDIA H200"):
        choice = choose(refusals={**ABLE, "mosaic_gpu": "too large"})
        assert choice.implementation == "reference"
        # "cudnn" is nothing that a call could have.
        assert choice.reason.endswith("; not mosaic_gpu, which is faster: too large")
        assert ";" not in choose().reason


def test_a_named_one_that_cannot_serve_is_refused_with_the_reason():
    with pytest.raises(
        dispatch.RefusedError, match="lstm: mosaic_gpu cannot serve: it needs a GPU, not cpu"
    ):
        choose("mosaic_gpu")
    with (
        dispatch.target("tpu"),
        pytest.raises(dispatch.RefusedError, match="cannot serve: too large"),
    ):
        choose("mosaic_tpu")
    with pytest.raises(
        dispatch.RefusedError, match="unknown implementation 'fast': it is auto or one of ref"
    ):
        choose("fast")
    assert choose("xla") == dispatch.Choice("lstm", "xla", "named")


def test_what_the_named_one_has_no_kernel_for_is_left_to_a_substitute_on_its_own_devices_only():
    with dispatch.target("tpu"):
        choice = choose("mosaic_tpu", substitute="xla")
        assert choice == dispatch.Choice("lstm", "xla", "mosaic_tpu has no kernel: too large")
        with pytest.raises(dispatch.RefusedError, match="mosaic_gpu cannot serve: it needs a GPU"):
            choose("mosaic_gpu", substitute="xla")


def test_a_call_that_names_nobody_goes_by_the_innermost_context():
    with dispatch.target("gpu"), dispatch.using("mosaic_gpu"):
        assert choose(None).implementation == "mosaic_gpu"
        with dispatch.using("reference"):
            assert choose(None).implementation == "reference"
            assert choose("xla").implementation == "xla"
        assert choose(None).implementation == "mosaic_gpu"
        with pytest.raises(dispatch.RefusedError), dispatch.using("mosaic_tpu"):
            choose(None)
        assert choose(None).implementation == "mosaic_gpu"
    assert choose(None) == choose("auto")


def test_an_unknown_context_is_refused_at_its_beginning():
    with (
        pytest.raises(dispatch.RefusedError, match="unknown implementation 'fast': it is auto or"),
        dispatch.using("fast"),
    ):
        pass


def test_contexts_record_what_is_traced_within_them():
    choices = [dispatch.Choice("lstm", "xla", reason) for reason in "abcd"]
    with dispatch.using("xla") as outer:
        dispatch.record(choices[0])
        with dispatch.using("auto") as inner:
            dispatch.record(choices[1])
        dispatch.record(choices[2])
    dispatch.record(choices[3])
    assert (outer.choices, inner.choices) == (choices[:3], choices[1:2])


def test_a_jitted_function_is_traced_once_for_each_implementation_and_target():
    traced = []

    @jax.jit
    def call(x):
        traced.append((dispatch.requested(None), dispatch.device_kind()))
        return x

    def call_twice():
        call(1.0)
        call(2.0)

    call_twice()
    for name in ("xla", "reference"):
        with dispatch.using(name):
            call_twice()
    with dispatch.target("gpu"):
        call_twice()
    call_twice()
    assert traced == [("auto", "cpu"), ("xla", "cpu"), ("reference", "cpu"), ("auto", "gpu")]


def test_another_thread_has_a_context_of_its_own():
    with dispatch.using("xla") as within, concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(dispatch.requested, None).result() == "auto"
        pool.submit(dispatch.record, dispatch.Choice("lstm", "xla", "named")).result()
    assert within.choices == []


def test_a_target_ends_with_its_block():
    with dispatch.target("gpu"):
        with dispatch.target("TPU v5 lite"):
            assert dispatch.device_kind() == "TPU v5 lite"
        assert dispatch.device_kind() == "gpu"
    assert dispatch.device_kind() == "cpu"
