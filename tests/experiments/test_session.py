"""Which implementation of its kernels a model calls belongs to the machine, not to the run."""

import dataclasses
import json
import re

import pytest
from experiments.session import Settings

from dlcore.data import text
from dlcore.errors import UsageError
from experiments import evaluate, outputs, predict, recipes, session, train
from kernels import dispatch, testing


@pytest.fixture
def recipe(tmp_path):
    """A small language model on a small text."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "fox.txt").write_text(
        "the quick brown fox jumps over the lazy dog.\n" * 20
    )
    return dataclasses.replace(
        recipes.get("char_lstm_shakespeare"),
        model_options={"hidden": 8, "layers": 1},
        data=str(tmp_path / "text"),
        data_options={"sequence_length": 8},
        batch_size=32,
        num_epochs=1,
    )


@pytest.fixture
def words(recipe):
    """A command line that trains it."""
    return (
        f"--recipe={recipe.name}",
        f"--data={recipe.data}",
        *(f"--model.{name}={value}" for name, value in recipe.model_options.items()),
        "--data.sequence_length=8",
        "--batch_size=32",
        "--num_epochs=1",
    )


@pytest.mark.parametrize(
    ("named", "parallelism", "called"),
    [
        ("auto", "jit", "auto"),
        ("xla", "data", "xla"),
        # The compiler, which splits every operation there, can split no other.
        ("auto", "fsdp", "xla"),
    ],
)
def test_a_model_calls_the_kernels_that_are_named(recipe, named, parallelism, called, monkeypatch):
    asked, choose = set(), dispatch.choose

    def noting(operation, implementation, *facts, **options):
        asked.add(dispatch.requested(implementation))
        return choose(operation, implementation, *facts, **options)

    monkeypatch.setattr(dispatch, "choose", noting)
    prepared = session.prepare(recipe, Settings(kernels=named, parallelism=parallelism))
    assert asked == {called}
    assert "kernels" not in prepared.recipe.to_json()["model_options"]


@pytest.mark.parametrize(
    ("named", "reason"),
    [("mosaic_gpu", "it needs a GPU, not cpu"), ("mosaic_tpu", "it needs a TPU, not cpu")],
)
def test_what_cannot_serve_here_is_refused_before_anything_is_written(
    call, tmp_path, words, named, reason
):
    code, _, errors = call(train, *words, f"--kernels={named}", f"--workdir={tmp_path / 'run'}")
    assert code == 2
    assert (
        errors.splitlines()[-1] == f"error: --kernels={named}: lstm: {named} cannot serve: {reason}"
    )
    assert not (tmp_path / "run").exists()


def test_a_model_that_calls_no_kernel_takes_auto_only():
    recipe = recipes.get("lenet5_digits")
    with pytest.raises(UsageError, match="--kernels=xla: --model=lenet5_modern calls no kernel"):
        session.prepare(recipe, Settings(kernels="xla"))


@pytest.mark.slow
def test_a_run_by_pallas_kernels_is_complete_and_judged_without_them(
    call, tmp_path, monkeypatch, words
):
    # Long rows, and a sample of a thousand characters, take minutes where kernels are interpreted.
    monkeypatch.setattr(text, "_SCORED", 8)
    monkeypatch.setattr(text, "_CONTEXT", 4)
    monkeypatch.setattr(outputs, "leave", lambda *arguments: {})
    workdir = f"--workdir={tmp_path / 'run'}"
    with testing.interpreted("mosaic_tpu"):
        code, _, errors = call(train, *words, "--kernels=mosaic_tpu", workdir)
    assert code == 0, errors
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    code, output, errors = call(evaluate, workdir)
    assert code == 0, errors
    (loss,) = re.findall(r"loss +([\d.]+)", output)
    assert float(loss) == pytest.approx(summary["test"]["loss"], abs=1e-3)
    (tmp_path / "prompt.txt").write_text("the qu")
    words_of_predict = (workdir, "--kernels=xla", "--length=5", tmp_path / "prompt.txt")
    code, output, errors = call(predict, *words_of_predict)
    assert code == 0, errors
    assert len(output.removeprefix("the qu").removesuffix("\n")) == 5
    code, output, errors = call(train, *words, workdir)
    assert code == 0, errors
    assert "this run is complete" in output


@pytest.mark.parametrize("program", [evaluate, predict])
def test_a_program_that_looks_at_a_run_takes_the_flag_too(call, digits_run, tmp_path, program):
    (tmp_path / "file").write_text("")
    files = [tmp_path / "file"] if program is predict else []
    code, _, errors = call(program, f"--workdir={digits_run}", "--kernels=xla", *files)
    assert code == 2
    assert "--kernels=xla: --model=lenet5_modern calls no kernel" in errors.splitlines()[-1]
