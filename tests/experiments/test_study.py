"""The launcher of the studies: what it prints, writes and refuses."""

import json

import numpy as np
import pytest

from dlcore.analysis import studies
from experiments import study


def test_the_list_has_every_study_with_what_it_shows(call):
    code, output, _ = call(study, "--list")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert sorted(lines) == studies.names()
    assert all(text.endswith(".") for text in lines.values())


def test_a_study_leaves_its_options_its_numbers_and_its_figure(call, tmp_path):
    words = ("--study=activations", "--functions=tanh", "--points=20", f"--workdir={tmp_path}")
    code, output, errors = call(study, *words)
    assert code == 0, errors
    assert str(tmp_path / "figure.png") in output
    assert "expected" not in output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["options"] == {"functions": "tanh", "limit": 4.0, "points": 20}
    with np.load(tmp_path / "numbers.npz", allow_pickle=False) as numbers:
        assert all(np.issubdtype(array.dtype, np.number) for array in numbers.values())
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_with_the_default_options_numbers_stand_beside_what_is_expected_of_them(call, tmp_path):
    code, output, errors = call(study, "--study=threshold_logic", f"--workdir={tmp_path}")
    assert code == 0, errors
    assert "functions_of_one_unit  14, expected >= 14: met, expected <= 14: met\n" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--study is missing: it is one of "),
        (("--study=hopfeld",), "unknown study 'hopfeld': did you mean hopfield"),
        (("--study=initialization", "--seed=-1"), "--seed=-1: it must be at least 0"),
        (("--study=units", "--bias=nan"), "--bias=nan: it must be a finite number"),
        (("--study=units", "--workdir=/dev/null"), "--workdir=/dev/null is a file"),
        (("--study=activations", "--width=3"), "Unknown command line flag 'width'"),
    ],
)
def test_a_bad_command_is_refused_in_one_line(call, words, message):
    code, _, errors = call(study, *words)
    assert code == 2
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", studies.names())
def test_every_study_runs_as_it_is_documented_and_meets_its_expectations(name):
    chosen = studies.create(name)
    if chosen.datasets:
        pytest.skip(f"minutes of training on {', '.join(chosen.datasets)}: reproduce's work")
    numbers = chosen.run()
    figure = chosen.draw(numbers)
    assert figure.axes
    assert all(np.isfinite(number) for number in numbers.values() if np.ndim(number) == 0)
    missed = [str(own) for own in chosen.expectations if not own.met(numbers[own.metric])]
    assert not missed


def test_a_directory_that_cannot_be_written_is_refused_before_the_work(call):
    code, _, errors = call(study, "--study=hopfield", "--workdir=/dev/null/hopfield")
    assert code == 2
    assert errors.startswith("error: --workdir=/dev/null/hopfield: a part of it is a file")
    assert errors.count("\n") == 1
