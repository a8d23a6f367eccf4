"""What is measured of the LSTM: peers that compute the same, and counts by hand."""

import os
import pathlib

import jax
import pytest

from kernels import testing, timing
from kernels.lstm import bench, cases

CASE = cases.Case(2, 3, 4, 4, "float32")


def test_the_plain_scan_computes_the_same():
    arguments = cases.draw(CASE)
    (subject,) = bench.subjects(CASE)
    right = cases.right(CASE, arguments)
    (outputs, last), (inputs, params) = jax.jit(subject.peers["scan"].both)(arguments)
    assert testing.error(outputs, right["outputs"]) < 1e-6
    assert testing.error(last.cell, right["last"].cell) < 1e-6
    assert testing.error(inputs, right["gradients"][0]) < 1e-6
    assert testing.error(params.recurrent_kernel, right["gradients"][1].recurrent_kernel) < 1e-6


def test_operations_and_bytes_are_counted():
    # 6 steps of rows; 8 numbers enter each product, 16 gates leave it; 16 x 9 parameters.
    assert bench.counts(CASE, backward=False) == (2 * 6 * 8 * 16, 4 * (6 * (4 + 4) + 144))
    assert bench.counts(CASE, backward=True) == (
        3 * 2 * 6 * 8 * 16,
        4 * (6 * (4 + 4 + 2 * 4 + 4) + 3 * 144),
    )


@pytest.mark.slow
def test_pytorch_is_timed_where_it_is():
    root = pathlib.Path(bench.__file__).parents[2]
    python = os.environ.get("DLCORE_PEERS_PYTHON", root / ".peers" / "bin" / "python")
    if not pathlib.Path(python).exists():
        pytest.skip(f"PyTorch's environment is not there: `make peers` makes {python}")
    (subject,) = bench.subjects(CASE)
    row = timing.measure(subject, timing.Effort(calls=2, runs=3), str(python))
    assert row["seconds"]["torch"] > 0
    assert row["forward_seconds"]["torch"] > 0
