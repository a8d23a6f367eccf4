"""The program that prepares datasets: its exit codes and its single lines."""

import importlib.util

import pytest

from experiments import prepare


def test_help_names_the_flags_and_exits_with_zero(call):
    code, output, _ = call(prepare, "--help")
    assert code == 0
    assert "--dataset" in output
    assert "--data_dir" in output


def test_an_unknown_flag_exits_with_two(call):
    code, _, errors = call(prepare, "--datset=mnist")
    assert code == 2
    assert "datset" in errors


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
def test_without_tensorflow_it_says_what_to_install_in_one_line(call, tmp_path):
    code, _, errors = call(prepare, "--dataset=mnist", f"--data_dir={tmp_path}")
    assert code == 2
    assert errors.count("\n") == 1
    assert "pip install 'dlcore[prepare]'" in errors


@pytest.mark.parametrize("missing", ["dataset", "data_dir"])
def test_a_missing_flag_is_named(call, tmp_path, missing, monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    given = {"dataset": "mnist", "data_dir": tmp_path}
    del given[missing]
    code, _, errors = call(prepare, *(f"--{name}={value}" for name, value in given.items()))
    assert code == 2
    assert errors.startswith(f"error: --{missing} is missing")
    assert errors.count("\n") == 1


def test_a_prepared_dataset_is_found(call, data_dir):
    code, output, _ = call(prepare, "--dataset=mnist", f"--data_dir={data_dir}")
    assert code == 0
    assert str(data_dir / "mnist") in output
