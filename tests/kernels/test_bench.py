"""The benchmark measures, proves first, and writes what dispatch reads."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import pytest

from kernels import bench, dispatch, testing
from kernels.lstm import cases

WORDS = ("--shapes=2x3x4", "--dtypes=float32", "--calls=4", "--runs=3")
CASE = cases.Case(2, 3, 4, 4, "float32")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The table of one small shape, where it was written."""
    directory = tmp_path_factory.mktemp("kernels") / "measured"
    bench.main([*WORDS, f"--directory={directory}"])
    return directory


def test_every_implementation_and_peer_is_timed(table):
    written = json.loads((table / "lstm_cpu.json").read_text())
    assert written["device"] == "cpu"
    (row,) = written["rows"]
    assert row["shape"] == {"batch": 2, "time": 3, "hidden": 4}
    assert row["dtype"] == "float32"
    for direction in ("seconds", "forward_seconds"):
        assert set(row[direction]) == {"xla", "scan"}
        assert min(row[direction].values()) > 0
    # What a CPU could do at most is not known.
    assert row["forward"]["share_of_roofline"] is None


def test_what_it_writes_is_what_auto_chooses_by(table, monkeypatch):
    monkeypatch.setattr(dispatch, "__file__", str(table.parent / "dispatch.py"))
    dispatch.measurements.cache_clear()
    try:
        rows = dispatch.measurements("lstm", "cpu")
        choice = dispatch.choose(
            "lstm",
            "auto",
            {"xla": None},
            {"batch": 2, "time": 3, "hidden": 4},
            jnp.dtype("float32"),
        )
    finally:
        dispatch.measurements.cache_clear()
    assert len(rows) == 1
    assert choice.name == "xla"
    assert choice.reason.startswith("the fastest that serves, measured on cpu")


def test_a_row_takes_the_place_of_what_was_measured_before(tmp_path):
    def row(hidden, taken):
        return {"shape": {"hidden": hidden}, "dtype": "float32", "seconds": {"xla": taken}}

    path = tmp_path / "measured" / "lstm_cpu.json"
    for hidden, taken in ((64, 1.0), (128, 2.0), (64, 3.0)):
        bench.write(path, "cpu", row(hidden, taken))
    assert json.loads(path.read_text())["rows"] == [row(128, 2.0), row(64, 3.0)]


def test_a_shape_that_does_not_fit_is_told_and_passed_over(monkeypatch, tmp_path, capsys):
    def measure(case, *_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(bench, "measure", measure)
    bench.main([*WORDS, f"--directory={tmp_path}"])
    assert capsys.readouterr().out == "2x3x4x4-float32: does not fit in the device's memory\n"
    assert not list(tmp_path.iterdir())


def test_a_wrong_implementation_ends_the_run(monkeypatch):
    right = cases.call

    def wrong(case, arguments, implementation):
        result = right(case, arguments, "xla")
        return result if implementation == "xla" else jax.tree.map(lambda a: 1.001 * a, result)

    monkeypatch.setattr(cases, "call", wrong)
    bench.prove(CASE, ["xla"])
    with pytest.raises(AssertionError, match=": 0.001 > "):
        bench.prove(CASE, ["mosaic_gpu"])


def test_the_plain_scan_computes_the_same():
    arguments = cases.draw(CASE)
    _, both = bench._peer(bench.scan)
    right = cases.right(CASE, arguments)
    (outputs, last), (inputs, params) = both(arguments)
    assert testing.error(outputs, right["outputs"]) < 1e-6
    assert testing.error(last.cell, right["last"].cell) < 1e-6
    assert testing.error(inputs, right["gradients"][0]) < 1e-6
    assert testing.error(params.recurrent_kernel, right["gradients"][1].recurrent_kernel) < 1e-6


def test_operations_and_bytes_are_counted():
    # 6 steps of rows; 8 numbers enter each product, 16 gates leave it; 16 x 9 parameters.
    assert bench.counts(CASE, backward=False) == {
        "operations": 2 * 6 * 8 * 16,
        "bytes": 4 * (6 * (4 + 4) + 144),
    }
    assert bench.counts(CASE, backward=True) == {
        "operations": 3 * 2 * 6 * 8 * 16,
        "bytes": 4 * (6 * (4 + 4 + 2 * 4 + 4) + 3 * 144),
    }


def test_the_share_of_the_roofline_is_the_least_time_over_the_time():
    large = cases.Case(256, 512, 1024, 1024, "bfloat16")
    operations = 3 * 2 * 256 * 512 * 2048 * 4096
    with dispatch.target("NVIDIA H200"):
        told = bench._against_roofline(large, 0.1, backward=True)
    assert told["operations"] == operations
    assert told["share_of_roofline"] == pytest.approx(operations / 989e12 / 0.1)


@pytest.mark.parametrize("words", ["--shapes=2x3", "--shapes=axbxc", "--operation=convolution"])
def test_bad_words_are_refused(words):
    with pytest.raises(SystemExit) as end:
        bench.main([words])
    assert end.value.code == 2


@pytest.mark.slow
def test_pytorch_is_timed_where_it_is():
    root = pathlib.Path(bench.__file__).parents[1]
    python = os.environ.get("DLCORE_PEERS_PYTHON", root / ".peers" / "bin" / "python")
    if not pathlib.Path(python).exists():
        pytest.skip(f"PyTorch's environment is not there: `make peers` makes {python}")
    row = bench.measure(CASE, bench.Effort(calls=2, runs=3), str(python))
    assert row["seconds"]["torch"] > 0
    assert row["forward_seconds"]["torch"] > 0
