"""What is measured of the training block: rows that dispatch finds, peers, counts by hand."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import pytest

from kernels import bench as command
from kernels import dispatch, testing, timing
from kernels.conv_bn_relu import bench, cases, mosaic_gpu
from kernels.conv_bn_relu import dispatch as block_dispatch

LAST = cases.Case(2, 6, 5, 3, 4, 1, 1, "float32", residual=True, pending=True)
STRIDED = cases.Case(2, 7, 5, 3, 4, 3, 2, "bfloat16")
SHORTCUT = cases.Case(2, 7, 5, 3, 4, 1, 2, "bfloat16", activation="none")


@pytest.fixture
def run(tmp_path):
    """Measures one small case, and gives the rows of each table that was written."""

    def run():
        words = ["--operation=conv_bn_relu", "--shapes=2x6x5x3x4x1x1+residual+pending"]
        effort = ["--dtypes=float32", "--calls=2", "--runs=3", f"--directory={tmp_path}"]
        command.main([*words, *effort])
        return {path.stem: json.loads(path.read_text())["rows"] for path in tmp_path.iterdir()}

    return run


def test_both_primitives_and_the_block_are_measured(run, monkeypatch):
    traced = []

    def seconds(call, sets, effort):
        traced.append(jax.eval_shape(call, sets[0]))
        return 1.0

    monkeypatch.setattr(timing, "seconds", seconds)
    rows = run()
    # Five implementations and peers, forward, and forward and backward; and the copy.
    assert len(traced) == 2 * 5 + 1
    conv = {"rows": 60, "inputs": 3, "outputs": 4}
    block = {"batch": 2, "height": 6, "width": 5, "inputs": 3, "outputs": 4}
    assert {name: row["shape"] for name, (row,) in rows.items()} == {
        "conv_stats_1x1_stride1_cpu": conv,
        "conv_stats_1x1_stride1_pending_cpu": conv,
        "normalize_residual_cpu": {"rows": 60, "channels": 4},
        "conv_bn_relu_cpu": {**block, "kernel_size": 1, "stride": 1, "residual": 1},
    }
    for name, (row,) in rows.items():
        others = {"chain": 1.0} if name == "conv_bn_relu_cpu" else {}
        assert row["seconds"] == row["forward_seconds"] == {"xla": 1.0, **others}
    # In the time of a copy, which moves two arrays, three and ten are moved.
    (row,) = rows["normalize_residual_cpu"]
    assert row["forward"]["share_of_copy"] == 3 / 2
    assert row["forward_and_backward"]["share_of_copy"] == 10 / 2


@pytest.mark.slow
def test_all_of_it_runs(run):
    for name, (row,) in run().items():
        others = {"chain"} if name == "conv_bn_relu_cpu" else set()
        for direction in ("seconds", "forward_seconds"):
            assert set(row[direction]) == {"xla"} | others
            assert min(row[direction].values()) > 0


@pytest.fixture
def measured(monkeypatch):
    """`measured(case, seconds)`: rows of an H200 as the benchmark would write them."""
    rows: dict[str, list] = {}
    monkeypatch.setattr(dispatch, "measurements", lambda operation, kind: rows.get(operation, []))
    # Another test says what is refused.
    monkeypatch.setattr(mosaic_gpu, "conv_refusal", lambda geometry, dtype: None)

    def add(case, seconds):
        with dispatch.target("NVIDIA H200"):
            for subject in bench.subjects(case):
                row = {"shape": subject.shape, "dtype": subject.dtype, "seconds": seconds}
                rows.setdefault(subject.operation, []).append(row)

    return add


def chosen(case):
    """Who serves the convolution, the convolution with what is pending, and the normalization."""
    geometry = case.geometry
    with dispatch.target("NVIDIA H200"):
        conv = [
            block_dispatch.choose_conv("auto", geometry, case.dtype, pending)
            for pending in (False, True)
        ]
        rest = block_dispatch.choose_normalize(
            "auto", geometry.rows, geometry.outputs, case.dtype, case.residual
        )
    return [choice.implementation for choice in (*conv, rest)]


def test_auto_takes_what_the_table_shows_fastest(measured):
    assert chosen(LAST) == ["xla"] * 3
    measured(LAST, {"mosaic_gpu": 1.0, "xla": 2.0})
    assert chosen(LAST) == ["mosaic_gpu"] * 3


def test_auto_never_takes_what_the_table_shows_slower(measured):
    measured(LAST, {"mosaic_gpu": 2.0, "xla": 1.0, "chain": 0.5, "mosaic_tpu": 0.1})
    assert chosen(LAST) == ["xla"] * 3


def test_auto_goes_by_the_nearest_row_of_the_same_kind_of_call(measured):
    large = cases.Case(64, 56, 56, 64, 256, dtype="float32", residual=True, pending=True)
    measured(large, {"mosaic_gpu": 1.0, "xla": 2.0})
    measured(LAST, {"mosaic_gpu": 2.0, "xla": 1.0})
    assert chosen(large) == ["mosaic_gpu"] * 3
    assert chosen(LAST) == ["xla"] * 3
    # Nothing was measured of 3x3 convolutions, nor in bfloat16.
    assert chosen(cases.Case(64, 56, 56, 64, 256, 3, dtype="float32"))[:2] == ["xla"] * 2
    assert chosen(cases.Case(64, 56, 56, 64, 256, residual=True)) == ["xla"] * 3


def test_where_xla_convolves_each_normalizer_may_go_first(measured):
    with dispatch.target("NVIDIA H200"):
        plain, pending, *_ = bench.subjects(LAST)
    assert {name: len(ways) for name, ways in plain.implementations.items()} == {
        "xla": 1,
        "mosaic_gpu": 1,
    }
    assert {name: len(ways) for name, ways in pending.implementations.items()} == {
        "xla": 2,
        "mosaic_gpu": 1,
    }


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("case", [LAST, pytest.param(SHORTCUT, marks=pytest.mark.slow)], ids=str)
def test_the_plain_chain_computes_the_same(case):
    block = bench.subjects(case)[-1]
    (ours,), chain = block.implementations["xla"], block.peers["chain"]
    both = jax.jit(lambda arguments: (ours.both(arguments), chain.both(arguments)))
    for one, two in zip(*map(jax.tree.leaves, both(block.draw(0))), strict=True):
        # Cotangents are rounded at other points, and sums over the rows are in another order: of n
        # addends the roundings, which are independent, add up to some sqrt(n) units.
        units = 4 + case.geometry.rows**0.5
        assert testing.error(one, two) < units * float(jnp.finfo(case.dtype).eps)


def test_the_proof_on_the_device_is_by_float32_for_what_is_bfloat16():
    arguments = cases.draw(STRIDED)
    near, exact = bench.right(STRIDED, arguments), cases.right(STRIDED, arguments)
    for one, two in zip(jax.tree.leaves(near), jax.tree.leaves(exact), strict=True):
        assert testing.error(one, two) < 1e-5


def test_the_proofs_have_fewer_images_but_as_even_rows():
    batches = {112: 1, 56: 2, 28: 8, 14: 32, 7: 128}
    for case in cases.resnet50(256):
        plain, *pending = bench.proofs(case)
        assert plain.batch == batches[case.geometry.space[0]]
        assert plain.geometry.rows % 128 == 0
        assert not plain.pending
        assert [other.pending for other in pending] == [True] * case.pending
    assert bench.proofs(LAST)[1] == LAST


def test_operations_and_bytes_of_a_convolution_are_counted():
    # 60 rows of 3 and of 4 channels, 12 weights, four bytes a number.
    forward, both = bench.conv_counts(LAST, pending=False)
    assert forward == (2 * 60 * 12, 4 * (180 + 12 + 240))
    assert both == (6 * 60 * 12, 4 * (180 + 12 + 240 + 180 + 12 + 240 + 240 + 180 + 12))
    pending = bench.conv_counts(LAST, pending=True)
    assert pending == (forward, (both.operations, both.bytes + 4 * 7 * 180))


def test_a_1x1_convolution_with_a_stride_reads_only_what_it_uses():
    # 70 positions of 3 channels, 24 of 4, two bytes a number: the cotangent is written whole.
    forward, both = bench.conv_counts(SHORTCUT, pending=False)
    assert forward.bytes == 2 * (72 + 12 + 96)
    assert both.bytes - forward.bytes == 2 * (72 + 210 + 2 * 12 + 2 * 96)
    forward, both = bench.conv_counts(STRIDED, pending=False)
    assert forward == (2 * 24 * 108, 2 * (210 + 108 + 96))
    assert both.bytes - forward.bytes == 2 * (210 + 210 + 2 * 108 + 2 * 96)


def test_operations_and_bytes_of_a_normalization_and_of_the_block_are_counted():
    assert bench.normalize_counts(LAST) == ((0, 4 * 3 * 240), (0, 4 * 10 * 240))
    assert bench.normalize_counts(SHORTCUT) == ((0, 2 * 2 * 96), (0, 2 * 7 * 96))
    forward, both = bench.block_counts(SHORTCUT)
    assert forward == (2 * 24 * 12, 2 * (72 + 12 + 96) + 2 * 2 * 96)
    assert both.operations == 3 * forward.operations


@pytest.mark.slow
def test_pytorch_is_timed_where_it_is():
    root = pathlib.Path(bench.__file__).parents[2]
    python = os.environ.get("DLCORE_PEERS_PYTHON", root / ".peers" / "bin" / "python")
    if not pathlib.Path(python).exists():
        pytest.skip(f"PyTorch's environment is not there: `make peers` makes {python}")
    script = bench.subjects(STRIDED)[-1].script
    taken = timing.torch_seconds(str(python), script, timing.Effort(calls=2, runs=3))
    assert set(taken) == {"torch", "torch_compiled"}
    assert min(second for pair in taken.values() for second in pair) > 0
