"""The program that prepares datasets: its exit codes and its single lines."""

import importlib.util
import subprocess
import sys

import pytest


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.prepare", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_the_flags_and_exits_with_zero():
    answer = run("--help")
    assert answer.returncode == 0
    assert "--dataset" in answer.stdout
    assert "--data_dir" in answer.stdout


def test_an_unknown_flag_exits_with_two():
    answer = run("--datset=mnist")
    assert answer.returncode == 2
    assert "datset" in answer.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
def test_without_tensorflow_it_says_what_to_install_in_one_line(tmp_path):
    answer = run("--dataset=mnist", f"--data_dir={tmp_path}")
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "pip install 'dlcore[prepare]'" in answer.stderr


@pytest.mark.parametrize("missing", ["dataset", "data_dir"])
def test_a_missing_flag_is_named(tmp_path, missing, monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    given = {"dataset": "mnist", "data_dir": str(tmp_path)}
    del given[missing]
    answer = run(*(f"--{name}={value}" for name, value in given.items()))
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"error: --{missing} is missing")
    assert answer.stderr.count("\n") == 1


def test_a_prepared_dataset_is_found(data_dir):
    answer = run("--dataset=mnist", f"--data_dir={data_dir}")
    assert answer.returncode == 0
    assert str(data_dir / "mnist") in answer.stdout
