"""What is measured of the LSTM: peers that compute the same, and counts by hand."""

import dataclasses
import os
import pathlib

import jax
import pytest
from jax.experimental import rnn

from kernels import dispatch, testing, timing
from kernels.lstm import bench, cases

CASE = cases.Case(2, 3, 4, 4, "float32")


def test_the_plain_scan_computes_the_same():
    (subject,) = bench.subjects(CASE)
    drawn = subject.draw(0)
    right = cases.right(CASE, drawn.arguments)
    (outputs, last), (inputs, params) = jax.jit(subject.peers["scan"].both)(drawn)
    assert testing.error(outputs, right["outputs"]) < 1e-6
    assert testing.error(last.cell, right["last"].cell) < 1e-6
    assert testing.error(inputs, right["gradients"][0]) < 1e-6
    assert testing.error(params.recurrent_kernel, right["gradients"][1].recurrent_kernel) < 1e-6


def test_cudnn_gets_the_parameters_as_it_packs_them(monkeypatch):
    def reference(x, output, cell, packed, lengths, input_size, hidden_size, **options):
        weights = rnn.unpack_lstm_weights(packed, input_size, hidden_size, 1, False)
        sizes = {"input_size": input_size, "hidden_size": hidden_size}
        return rnn.lstm_ref(x, output, cell, *weights, lengths, **sizes, **options)

    monkeypatch.setattr(rnn, "lstm", reference)
    case = cases.Case(2, 3, 5, 4, "float32")
    with dispatch.target("NVIDIA H200"):
        (subject,) = bench.subjects(case)
        drawn = subject.draw(0)
    right = cases.right(case, drawn.arguments)
    (outputs, last), (inputs, packed) = jax.jit(subject.peers["cudnn"].both)(drawn)
    input_kernel, recurrent_kernel, *biases = (
        arrays[0] for arrays in rnn.unpack_lstm_weights(packed, 5, 4, 1, False)
    )
    params = right["gradients"][1]
    assert testing.error(outputs, right["outputs"]) < 1e-6
    assert testing.error(last.cell, right["last"].cell) < 1e-6
    assert testing.error(last.output, right["last"].output) < 1e-6
    assert testing.error(inputs, right["gradients"][0]) < 1e-6
    assert testing.error(input_kernel.T, params.input_kernel) < 1e-6
    assert testing.error(recurrent_kernel.T, params.recurrent_kernel) < 1e-6
    assert all(testing.error(bias, params.bias) < 1e-6 for bias in biases)


def test_a_proof_is_shorter_and_otherwise_the_call_that_is_timed():
    words = bench.SHAPES.split(",")
    proved = set()
    for (case,) in (bench.parse(word, "bfloat16") for word in words):
        (proof,) = bench.proofs(case)
        assert proof.state
        assert proof.ragged
        assert proof.time < case.time
        assert dataclasses.replace(proof, time=case.time, state=False, ragged=False) == case
        proved.add(proof)
    (short,) = bench.proofs(CASE)
    assert short.time == CASE.time
    # In float64 on the host: minutes at 10 billion a second.
    operations = sum(bench.counts(proof, backward=True).operations for proof in proved)
    assert operations < 2e12


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
