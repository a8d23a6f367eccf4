"""A time is that of calls that are all made, one after the other, with nothing beside them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels import aot, dispatch, timing

EFFORT = timing.Effort(calls=4, runs=3)
COUNTS = timing.Counts(operations=989 * 10**6, bytes=48 * 10**6)


def subject(**options):
    """One whose implementation "fast" is a single number's sign."""
    fast = timing.Directions(jnp.negative, jnp.negative)
    given = {
        "operation": "sign",
        "shape": {"rows": 2, "columns": 3},
        "dtype": "bfloat16",
        "draw": lambda seed: jnp.full((2, 3), seed, jnp.bfloat16),
        "implementations": {"fast": [fast]},
        "peers": {},
        "counts": (COUNTS, COUNTS),
    }
    return timing.Subject(**{**given, **options})


def test_a_python_without_pytorch_is_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = tmp_path / "torch.py"
    module.write_text("")
    assert timing.torch_refusal(sys.executable) is None
    module.write_text("raise ImportError('no driver')")
    told = f"{sys.executable!r} has no PyTorch: ImportError: no driver"
    assert timing.torch_refusal(sys.executable) == told
    missing = tmp_path / "python"
    told = f"'{missing}' does not start: No such file or directory"
    assert timing.torch_refusal(str(missing)) == told


def test_every_call_is_made():
    made = []

    def note(x):
        made.append(float(x))
        return x

    def call(x):
        return jax.pure_callback(note, jax.ShapeDtypeStruct((), jnp.float32), x)

    taken = timing.seconds(call, [jnp.float32(1), jnp.float32(2)], EFFORT)
    # Two rounds over two sets, in a run to warm up and in three that are timed.
    assert made == [1, 2, 1, 2] * 4
    assert taken > 0


def test_the_program_gives_every_set_s_results():
    sets = [jnp.arange(3.0), jnp.ones(3)]
    state = (jnp.int32(0), [jnp.zeros(3), jnp.zeros(3)])
    program = timing.repeated(jnp.negative, 3).lower(state, sets).compile()
    _, results = program(state, sets)
    np.testing.assert_array_equal(results, [[0, -1, -2], [-1, -1, -1]])


# More than a TPU's vector memory, where a copy would not be seen.
SHAPE = jax.ShapeDtypeStruct((131072, 1024), jnp.bfloat16)


def negative_on_tpu(x):
    def kernel(x_ref, y_ref):
        y_ref[...] = -x_ref[...]

    block = pl.BlockSpec((512, 1024), lambda row: (row, 0))
    grid = {"grid": (256,), "in_specs": [block], "out_specs": block}
    return pl.pallas_call(kernel, out_shape=SHAPE, **grid)(x)


def negative_on_gpu(x):
    def kernel(x_ref, y_ref):
        rows = pl.ds(64 * jax.lax.axis_index("row"), 64)
        y_ref[rows, :64] = -x_ref[rows, :64]

    return plgpu.kernel(kernel, out_type=SHAPE, grid=(2048,), grid_names=("row",))(x)


@pytest.mark.parametrize(
    ("name", "kernel"), [("tpu:v5e", negative_on_tpu), ("gpu:h200", negative_on_gpu)]
)
def test_a_kernel_reads_and_writes_memory_and_nothing_is_copied_for_it(name, kernel):
    machine = aot.target(name)
    if reason := aot.missing(machine.chip.platform):
        pytest.skip(reason)
    sharding = jax.sharding.SingleDeviceSharding(machine.devices[0])
    sets = [jax.ShapeDtypeStruct(SHAPE.shape, SHAPE.dtype, sharding=sharding)] * timing.ROTATION
    state = (jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding), sets)
    with dispatch.target(machine.chip.device_kind):
        lowered = timing.repeated(kernel, 3).lower(state, sets)
        compiled = aot.compile_for(machine, lowered)
    assert len(compiled.kernels) == timing.ROTATION
    array = SHAPE.size * SHAPE.dtype.itemsize
    assert compiled.alias_bytes >= timing.ROTATION * array
    assert compiled.temporary_bytes < array / 16


def test_the_share_of_the_roofline_is_the_least_time_over_the_time():
    with dispatch.target("NVIDIA H200"):
        # A microsecond for the operations, ten for the bytes.
        told = timing.against_roofline(COUNTS, "bfloat16", 20e-6)
        slower = timing.against_roofline(COUNTS._replace(bytes=0), "bfloat16", 20e-6)
    assert told == {"operations": 989 * 10**6, "bytes": 48 * 10**6, "share_of_roofline": 0.5}
    assert slower["share_of_roofline"] == pytest.approx(0.05)
    with dispatch.target("cpu"):
        assert timing.against_roofline(COUNTS, "bfloat16", 1.0)["share_of_roofline"] is None


@pytest.fixture
def no_clock(monkeypatch):
    """A call takes as many seconds as it says itself."""
    monkeypatch.setattr(timing, "seconds", lambda call, sets, effort: call(sets[0]))


@pytest.mark.usefixtures("no_clock")
def test_of_several_ways_the_fastest_counts_and_a_peer_is_not_an_implementation():
    def taking(forward, both):
        return timing.Directions(lambda _: forward, lambda _: both)

    several = {"xla": [taking(2e-5, 8e-5), taking(4e-5, 6e-5)], "slow": [taking(1.0, 1.0)]}
    measured = subject(implementations=several, peers={"library": taking(1e-6, 1e-6)})
    with dispatch.target("NVIDIA H200"):
        row = timing.measure(measured, EFFORT)
    assert row["shape"] == {"rows": 2, "columns": 3}
    assert row["forward_seconds"] == {"xla": 2e-5, "slow": 1.0, "library": 1e-6}
    assert row["seconds"] == {"xla": 6e-5, "slow": 1.0, "library": 1e-6}
    assert row["forward"]["share_of_roofline"] == pytest.approx(1 / 2)
    assert row["forward_and_backward"]["share_of_roofline"] == pytest.approx(1 / 6)
    assert "share_of_copy" not in row["forward"]


def test_the_share_of_a_copy_is_a_ratio_of_bandwidths(monkeypatch):
    def taken(call, sets, effort):
        # The copy reads and writes 12 bytes each in a second, the call 96 bytes in two.
        return 1.0 if sets[0].ndim == 1 else 2.0

    monkeypatch.setattr(timing, "seconds", taken)
    counts = (timing.Counts(0, 24), timing.Counts(0, 48))
    row = timing.measure(subject(counts=counts, copied=jnp.ravel), EFFORT)
    assert row["forward"]["share_of_copy"] == pytest.approx(24 / 2 / 24)
    assert row["forward_and_backward"]["share_of_copy"] == pytest.approx(48 / 2 / 24)


@pytest.mark.usefixtures("no_clock")
def test_a_script_s_times_stand_beside_the_others(monkeypatch):
    script = timing.Script('print(json.dumps({"peer": [words[0], calls + runs / 2]}))', (0.25,))
    without_torch = "import json, sys\n*words, calls, runs = json.loads(sys.argv[1])\n"
    monkeypatch.setattr(timing, "PRELUDE", without_torch)
    one = timing.Directions(lambda _: 1.0, lambda _: 2.0)
    measured = subject(implementations={"fast": [one]}, script=script)
    row = timing.measure(measured, EFFORT, sys.executable)
    assert row["forward_seconds"] == {"fast": 1.0, "peer": 0.25}
    assert row["seconds"] == {"fast": 2.0, "peer": 5.5}
    assert timing.measure(measured, EFFORT)["seconds"] == {"fast": 2.0}


def test_a_script_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(timing, "PRELUDE", "")
    script = timing.Script("raise ValueError('no such shape')", ())
    with pytest.raises(RuntimeError, match="(?s)PyTorch in .*: .*no such shape"):
        timing.torch_seconds(sys.executable, script, EFFORT)
