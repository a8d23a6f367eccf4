"""The benchmark measures, proves first, and writes what dispatch reads."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import bench, dispatch, timing
from kernels.lstm import cases

WORDS = ("--shapes=2x3x4", "--dtypes=float32", "--calls=2", "--runs=3")
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
    assert choice.implementation == "xla"
    assert choice.reason.startswith("the fastest that serves, measured on cpu")


def test_a_row_takes_the_place_of_what_was_measured_before(tmp_path):
    def row(hidden, taken):
        return {"shape": {"hidden": hidden}, "dtype": "float32", "seconds": {"xla": taken}}

    path = tmp_path / "measured" / "lstm_cpu.json"
    for hidden, taken in ((64, 1.0), (128, 2.0), (64, 3.0)):
        bench.write(path, "cpu", row(hidden, taken))
    assert json.loads(path.read_text())["rows"] == [row(128, 2.0), row(64, 3.0)]


def test_a_shape_that_does_not_fit_is_told_and_passed_over(monkeypatch, tmp_path, capsys):
    def measure(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(timing, "measure", measure)
    bench.main([*WORDS, f"--directory={tmp_path}"])
    assert capsys.readouterr().out == "lstm 2x3x4 float32: does not fit in the device's memory\n"
    assert not list(tmp_path.iterdir())


def test_a_row_is_measured_once_and_proved_once(monkeypatch, tmp_path):
    proved, measured = [], []

    def measure(subject, *_):
        measured.append(str(subject))
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: not today")

    monkeypatch.setattr(timing, "measure", measure)
    monkeypatch.setattr(bench, "prove", lambda family, case, names: proved.append(case))
    words = ["--operation=conv_bn_relu", "--shapes=resnet50:128,resnet50:256"]
    bench.main([*words, f"--directory={tmp_path}"])
    # 24 distinct calls, of which 11 have something pending, and 16 distinct normalizations.
    assert len(set(proved)) == len(proved) == 24 + 11
    assert len(set(measured)) == len(measured)
    normalized = [name for name in measured if name.startswith("normalize")]
    blocks = [name for name in measured if name.startswith("conv_bn_relu")]
    pending = [name for name in measured if "_pending " in name]
    assert [len(names) for names in (normalized, blocks, pending)] == [2 * 16, 2 * 24, 2 * 11]


def test_a_wrong_implementation_ends_the_run(monkeypatch):
    exact = np.sqrt(np.linspace(1, 2, 5))

    def call(case, arguments, implementation):
        return {"outputs": np.float32(1.001 * exact if implementation == "wrong" else exact)}

    monkeypatch.setattr(cases, "call", call)
    monkeypatch.setattr(cases, "right", lambda case, arguments: {"outputs": exact})
    family = bench.FAMILIES["lstm"]
    bench.prove(family, CASE, ["xla", "right"])
    with pytest.raises(AssertionError, match="'outputs'.*: 0.001 > "):
        bench.prove(family, CASE, ["xla", "right", "wrong"])


def test_a_line_has_microseconds_and_shares():
    def told(share):
        return {"operations": 1, "bytes": 1, "share_of_roofline": None, "share_of_copy": share}

    row = {
        "seconds": {"xla": 2e-6, "torch": 3e-3},
        "forward_seconds": {"xla": 1e-6, "torch": 1.5e-3},
        "forward": told(0.5),
        "forward_and_backward": told(0.875),
    }
    assert bench.line(row) == "xla 1.0 2.0  torch 1500.0 3000.0  50.0% 87.5% of a copy"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--shapes=2x3"], "'2x3': batch, time and units, each at least 1"),
        (["--shapes=axbxc"], "'axbxc': batch,"),
        (["--shapes=0x1x1"], "'0x1x1': batch,"),
        (["--shapes=2x-3x4"], "'2x-3x4': batch,"),
        (["--shapes=2x3x4,2x0x4"], "'2x0x4': batch,"),
        (["--runs=0"], "argument --runs: invalid positive_integer value: '0'"),
        (["--calls=0"], "argument --calls: invalid positive_integer value: '0'"),
        (["--torch=/nonexistent"], "--torch: '/nonexistent' does not start: "),
        (["--operation=convolution"], "argument --operation: invalid choice: 'convolution'"),
        (["--operation=conv_bn_relu", "--shapes=2x3x4"], "'2x3x4': resnet50:BATCH, or batch,"),
        (["--operation=conv_bn_relu", "--shapes=resnet50:many"], "'resnet50:many': "),
        (["--operation=conv_bn_relu", "--shapes=resnet50:0"], "'resnet50:0': "),
        (["--operation=conv_bn_relu", "--shapes=2x6x0x3x4x1x1"], "'2x6x0x3x4x1x1': "),
        (["--operation=conv_bn_relu", "--shapes=2x6x6x3x4x1x1+resting"], "+resting': "),
    ],
)
def test_bad_words_are_refused_in_one_line_before_any_work(words, told, monkeypatch, capsys):
    monkeypatch.setattr(bench, "prove", lambda *_: pytest.fail("something was proved"))
    monkeypatch.setattr(timing, "measure", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(SystemExit) as end:
        bench.main(words)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    "directory", ["gs://b/x", "~no-such-user/x", "x" * 300, f"{__file__}/x", __file__, "/proc/x"]
)
def test_a_directory_that_is_not_on_this_machine_is_refused(capsys, directory):
    with pytest.raises(SystemExit) as end:
        bench.main([*WORDS, f"--directory={directory}"])
    assert end.value.code == 2
    assert directory in capsys.readouterr().err


def test_home_stands_for_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bench._local("~/measured") == tmp_path / "measured"
