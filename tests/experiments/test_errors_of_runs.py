"""A run directory, or weights, that a command cannot use: one clear line, and nothing is lost."""

import contextlib
import fcntl
import json
import pathlib
import shutil
from typing import Any

import pytest

import dlcore
from dlcore import models
from experiments import evaluate, predict, train
from tests.experiments.conftest import DIGITS_RUN
from tests.experiments.refusals import SOFTMAX, assert_refused, files


@pytest.fixture
def copy(digits_run, tmp_path) -> pathlib.Path:
    """A complete run of LeNet on the digits, as `DIGITS_RUN` goes on with it."""
    return shutil.copytree(digits_run, tmp_path / "copy")


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("--recipe=perceptron_digits",), ("--recipe=lenet5_digits", "--recipe=perceptron_digits")),
        ((*DIGITS_RUN, "--num_epochs=3"), ("--num_epochs=2", "--num_epochs=3")),
        ((*DIGITS_RUN, "--learning_rate=0.5"), ("this one has --learning_rate=0.5",)),
        ((*DIGITS_RUN, "--data.pad=2"), ("--data.pad=0", "--data.pad=2")),
        (
            (*DIGITS_RUN, "--model=softmax_regression"),
            ("--model=lenet5_modern", "--model=softmax_regression"),
        ),
    ],
)
def test_a_workdir_of_another_run_is_refused_and_left_alone(call, copy, words, fragments):
    before = files(copy)
    result = call(train, *words, f"--workdir={copy}")
    assert_refused(
        result, f"--workdir={copy} belongs to a run with", "another directory", *fragments
    )
    assert files(copy) == before


def test_a_workdir_that_is_a_file_is_refused_and_left_alone(call, tmp_path):
    (tmp_path / "run").write_text("notes")
    assert_refused(call(train, *SOFTMAX, f"--workdir={tmp_path / 'run'}"), "is a file")
    assert (tmp_path / "run").read_text() == "notes"


def test_a_workdir_with_foreign_files_is_refused_and_left_alone(call, tmp_path):
    (tmp_path / "thesis.tex").write_text("My thesis")
    result = call(train, *SOFTMAX, f"--workdir={tmp_path}")
    assert_refused(result, f"--workdir={tmp_path} holds files but no recipe.json")
    assert files(tmp_path) == {"thesis.tex": b"My thesis"}
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["", '{"name": "lenet5_di', "null", "[1]"])
def test_a_damaged_recipe_is_refused_and_left_alone(call, copy, content):
    (copy / "recipe.json").write_text(content)
    before = files(copy)
    for result in (
        call(train, *DIGITS_RUN, f"--workdir={copy}"),
        call(evaluate, f"--workdir={copy}"),
    ):
        assert_refused(result, f"{copy / 'recipe.json'} is damaged: it holds no JSON object")
    assert files(copy) == before


def of_old(recipe: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """As the first version wrote it, which had no version and a field that is gone."""
    del recipe["version"], recipe["needs"]
    told = f"of dlcore before 0.2 cannot be read by {dlcore.__version__}: use dlcore 0.1"
    return {**recipe, "judge": ""}, told


def of_a_later_version(recipe: dict[str, Any]) -> tuple[dict[str, Any], str]:
    told = f"of dlcore 9.1 cannot be read by {dlcore.__version__}, which does not know flux"
    return {**recipe, "version": "9.1", "flux": 3}, told


@pytest.mark.parametrize("change", [of_old, of_a_later_version], ids=lambda change: change.__name__)
def test_a_run_of_another_version_is_refused_by_its_version(call, copy, change):
    recipe, told = change(json.loads((copy / "recipe.json").read_text()))
    (copy / "recipe.json").write_text(json.dumps(recipe))
    (copy / "digit.png").touch()
    before = files(copy)
    for result in (
        call(train, *DIGITS_RUN, f"--workdir={copy}"),
        call(evaluate, f"--workdir={copy}"),
        call(predict, f"--workdir={copy}", copy / "digit.png"),
        call(train, *DIGITS_RUN, f"--start_from={copy}", f"--workdir={copy.parent / 'new'}"),
    ):
        assert_refused(result, f"{copy}: a run {told}")
    assert files(copy) == before
    assert not (copy.parent / "new").exists()


@contextlib.contextmanager
def in_use(directory: pathlib.Path):
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_second_training_in_the_same_workdir_is_refused(call, copy):
    before = files(copy)
    with in_use(copy):
        result = call(train, *DIGITS_RUN, f"--workdir={copy}")
    assert_refused(result, f"--workdir={copy} is in use by another training")
    assert files(copy) == before


def test_checkpoints_of_another_model_are_refused_and_left_alone(call, copy):
    # LeNet's checkpoints in the directory of an MLP that is not complete.
    recipe = json.loads((copy / "recipe.json").read_text())
    recipe |= {"model": "mlp", "model_options": models.defaults("mlp")}
    (copy / "recipe.json").write_text(json.dumps(recipe))
    (copy / "summary.json").unlink()
    before = files(copy)
    result = call(train, *DIGITS_RUN, "--model=mlp", f"--workdir={copy}")
    assert_refused(result, f"the checkpoint {copy}/checkpoints/", "of another model: params/C1")
    assert files(copy) == before


# Weights to start from.


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (
            ("--model=mlp",),
            (
                "the weights do not fit the model; words in --start_mapping can mend it",
                "missing in the source",
            ),
        ),
        (
            ("--start_mapping=logits/.*<-",),
            ("2 left over in the source (logits/bias, logits/kernel): leave them out",),
        ),
        (("--start_mapping=C1<-",), ("--start_mapping=C1<-: it matches nothing in the model",)),
        (("--start_mapping=(<-",), ("--start_mapping=(<-: it is not a regular expression",)),
        (("--start_mapping=C1",), ("--start_mapping=C1: write TARGET<-SOURCE",)),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    call, digits_run, tmp_path, words, fragments
):
    words = (*DIGITS_RUN, f"--start_from={digits_run}", *words, f"--workdir={tmp_path / 'new'}")
    assert_refused(call(train, *words), *fragments)
    assert not (tmp_path / "new").exists()
