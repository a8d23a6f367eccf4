"""Studies measured against what they are expected to show, and the README's table of them."""

import dataclasses
import json

import pytest

from dlcore.analysis import studies
from dlcore.analysis.studies.threshold_logic import ThresholdLogic
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from experiments import reproduce, reproduce_studies, tables

COMMITTED = reproduce.RESULTS / "studies"


@pytest.fixture
def readme(tmp_path, monkeypatch):
    """Results and README of another place than the repository's."""
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    lines = [mark for name in ("results", "studies") for mark in tables.marks(name)]
    (tmp_path / "README.md").write_text("\n".join(lines))
    return tmp_path / "README.md"


def test_a_study_that_is_met_is_written_and_tabulated(call, readme, tmp_path):
    code, output, errors = call(reproduce, "--studies=threshold_logic")
    assert code == 0, errors
    assert output == "threshold_logic: met\n"
    result = json.loads((tmp_path / "results/studies/threshold_logic.json").read_text())
    assert result["met"] is True
    assert result["options"] == {"inputs": 2}
    assert result["measured"] == {"functions": 16, "functions_of_one_unit": 14}
    assert [own["met"] for own in result["expected"]] == [True, True]
    assert {"jax", "numpy"} <= result["versions"].keys()
    assert {"seconds", "devices", "commit", "date"} <= result.keys()
    assert result["command"] == "python -m experiments.reproduce --studies=threshold_logic"
    assert "functions_of_one_unit 14 | = 14 (Muroga (1971)" in readme.read_text()


def test_a_study_that_misses_is_written_too_and_ends_with_1(call, readme, tmp_path, monkeypatch):
    bound = Expectation("functions_of_one_unit", 15, "max", "this test")
    monkeypatch.setattr(ThresholdLogic, "expectations", (bound,))
    code, output, _ = call(reproduce, "--studies=threshold_logic")
    assert code == 1
    assert output == "threshold_logic: MISSED functions_of_one_unit >= 15\n"
    result = json.loads((tmp_path / "results/studies/threshold_logic.json").read_text())
    assert result["met"] is False


def test_an_unknown_study_is_refused_before_any_is_run(call, readme, tmp_path):
    code, output, errors = call(reproduce, "--studies=threshold_logic,hopfeld")
    assert (code, output) == (2, "")
    assert "unknown study 'hopfeld': did you mean hopfield" in errors
    assert not (tmp_path / "results").exists()


def test_a_study_without_its_data_is_refused_before_any_is_run(call, readme, tmp_path, monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    code, output, errors = call(reproduce, "--studies=threshold_logic,transfer")
    assert (code, output) == (2, "")
    assert "dataset 'cifar10_jpeg' needs --data_dir" in errors
    assert not (tmp_path / "results").exists()


def test_an_expectation_of_a_number_that_is_not_measured_is_refused():
    bound = Expectation("acuracy", 1, "max", "this test")
    with pytest.raises(UsageError, match="no number 'acuracy' was measured: there are accuracy"):
        reproduce_studies.compare([bound], {"accuracy": 1.0})


def test_bounds_from_both_sides_stand_together():
    bounds = [
        dataclasses.asdict(own) | {"met": True} for own in studies.kind("losses").expectations
    ]
    measured = {own["metric"]: 0.5 for own in bounds}
    result = {"study": "losses", "description": "", "measured": measured, "expected": bounds}
    cells = reproduce_studies.table_row(result | {"seconds": 1.4})
    assert cells[3].startswith(">= 0.695 and <= 0.705 (Gibbs's inequality: the truth: 0.7)<br>")
    assert cells[4] == "1 s"


@pytest.mark.parametrize("name", studies.names())
def test_the_committed_result_of_every_study_is_of_its_expectations_and_meets_them(name):
    result = json.loads((COMMITTED / f"{name}.json").read_text())
    study = studies.create(name)
    assert study.expectations
    expected = reproduce_studies.compare(study.expectations, result["measured"])
    assert result["expected"] == expected
    assert all(own["met"] for own in expected)
    assert result["options"] == json.loads(json.dumps(dataclasses.asdict(study)))


def test_the_committed_readme_is_made_from_the_committed_results(tmp_path):
    committed = COMMITTED.parents[2] / "README.md"
    copy = tmp_path / "README.md"
    copy.write_text(committed.read_text())
    reproduce_studies.write_table(copy, COMMITTED)
    assert copy.read_text() == committed.read_text()
    assert [path.stem for path in sorted(COMMITTED.glob("*.json"))] == studies.names()
