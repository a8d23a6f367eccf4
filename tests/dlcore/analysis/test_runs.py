"""Runs as a session leaves them, written here by hand so that every number is known."""

import contextlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.analysis.runs import by_name, hardest_errors
from dlcore.errors import UsageError
from dlcore.train import Recipe, Run, Session
from dlcore.train.checkpoint import Checkpoints
from dlcore.train.report import read_summary

RECIPE = Recipe(
    name="mine",
    model="mlp",
    model_options={"hidden": (7, 5)},
    task_options={"label_smoothing": 0.1},
    data="digits",
    learning_rate=0.1,
)
SUMMARY = {
    "status": "complete",
    "reason": "10 steps",
    "step": 10,
    "best": None,
    "skipped_updates": 0,
    "parameters": 7,
    "seconds": 1.5,
    "resumed": False,
    "devices": {"kind": "cpu"},
    "versions": {"jax": "0"},
    "commit": "unknown",
    "date": "2026-01-01",
    "test": {"loss": None, "accuracy": 0.5},
}
RECORDS = [
    {"step": 5, "epoch": 0.5, "split": "train", "loss": 2.0, "learning_rate": 0.1},
    {"step": 10, "epoch": 1.0, "split": "train", "loss": None, "learning_rate": 0.05},
    {"step": 10, "epoch": 1.0, "split": "validation", "loss": 1.0, "accuracy": 0.75},
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    """A run on the digits with crafted records and outputs, without checkpoints."""
    directory = tmp_path_factory.mktemp("runs") / "mlp_digits"
    directory.mkdir()
    (directory / "recipe.json").write_text(json.dumps(RECIPE.to_json()))
    (directory / "summary.json").write_text(json.dumps(SUMMARY))
    lines = [json.dumps(record) + "\n" for record in RECORDS]
    (directory / "metrics.jsonl").write_text("".join(lines))
    label = all_of_the_test_split()["label"]
    scores = np.random.default_rng(0).gumbel(size=(len(label), 10))
    probability = np.asarray(jax.nn.softmax(scores), np.float32)
    np.savez(
        directory / "test_outputs.npz",
        label=label,
        prediction=probability.argmax(-1),
        probability=probability,
        confusion=np.zeros((10, 10), int),
    )
    return directory


def all_of_the_test_split():
    split = Session(RECIPE).prepared.dataset.splits["test"]
    return split.fetch(np.arange(len(split)))


def test_the_recipe_and_the_summary_are_as_written(directory):
    run = Run(str(directory))
    assert run.directory == directory
    assert run.recipe == RECIPE
    assert run.summary == SUMMARY


@pytest.mark.parametrize("field", SUMMARY)
@pytest.mark.parametrize("value", [..., {}, [1], "text", 3.5])
def test_a_summary_of_other_contents_is_refused(tmp_path, field, value):
    changed = {**SUMMARY, field: value}
    if value is ...:
        del changed[field]
    fits = isinstance(value, type(SUMMARY[field])) and field != "status"
    if fits or (field, value) in (("best", {}), ("test", ...)):
        read = contextlib.nullcontext()
    else:
        read = pytest.raises(UsageError, match="summary.json is damaged: it holds no summary")
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(changed))
    with read:
        assert read_summary(path) == changed


def test_metrics_are_columns_by_split_with_nan_for_what_was_not_finite(directory):
    run = Run(directory)
    assert run.records == RECORDS
    assert {split: list(columns) for split, columns in run.metrics.items()} == {
        "train": ["step", "epoch", "loss", "learning_rate"],
        "validation": ["step", "epoch", "loss", "accuracy"],
    }
    train = run.metrics["train"]
    np.testing.assert_array_equal(train["epoch"], [0.5, 1.0])
    np.testing.assert_array_equal(train["loss"], [2.0, np.nan])
    np.testing.assert_array_equal(run.metrics["validation"]["accuracy"], [0.75])


def test_the_hardest_errors_are_the_wrong_answers_that_doubted_the_truth_most(directory):
    run = Run(directory)
    examples, outputs = all_of_the_test_split(), run.arrays("test_outputs")
    wrong = [
        (outputs["probability"][index, outputs["label"][index]], index)
        for index in range(len(outputs["label"]))
        if outputs["prediction"][index] != outputs["label"][index]
    ]
    expected = [index for _, index in sorted(wrong)]
    errors = hardest_errors(run, 5)
    np.testing.assert_array_equal(errors.index, expected[:5])
    np.testing.assert_array_equal(errors.image, examples["image"][expected[:5]])
    np.testing.assert_array_equal(errors.label, examples["label"][expected[:5]])
    np.testing.assert_array_equal(errors.probability, outputs["probability"].max(-1)[expected[:5]])
    np.testing.assert_array_equal(hardest_errors(run, 10_000).index, expected)


def test_an_errors_caption_says_the_truth_the_answer_and_how_sure_it_was(directory):
    errors = hardest_errors(Run(directory), 3)
    names = tuple("abcdefghij")
    truth, answer = names[errors.label[1]], names[errors.prediction[1]]
    expected = f"{truth} as {answer} ({round(100 * float(errors.probability[1]))}%)"
    assert errors.captions(names)[1] == expected


@pytest.fixture(scope="module", params=[0.0, 0.9], ids=["plain", "averaged"])
def trained(request, directory):
    """The run with two checkpoints, the older one better, and what that one holds."""
    recipe = {**RECIPE.to_json(), "ema_decay": request.param}
    (directory / "recipe.json").write_text(json.dumps(recipe))
    first = Run(directory).session.prepared.program.initialize()
    checkpoints = Checkpoints(directory / "checkpoints", mode="max")
    saved = {}
    for step, accuracy in ((5, 0.9), (10, 0.8)):
        params = jax.tree.map(lambda array, step=step: array + step, first.params)
        average = {"params": jax.tree.map(jnp.negative, params)} if request.param else None
        saved[step] = first.replace(params=params, average=average)
        checkpoints.save(step, saved[step], {}, watched=accuracy)
        checkpoints.wait()
    checkpoints.close()
    yield directory, saved[5]
    for path in sorted((directory / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_the_trained_model_is_that_of_the_best_checkpoint(trained):
    directory, state = trained
    found = Run(directory).trained()
    assert found.learner.model.hidden == (7, 5)
    assert found.learner.label_smoothing == 0.1
    expected = state.variables()
    assert jax.tree.structure(found.variables) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected)


def test_a_trained_model_can_be_applied(trained):
    found = Run(trained[0]).trained()
    images = jnp.asarray(all_of_the_test_split()["image"][:3])
    probability = found.learner.predict(found.variables, {"image": images})
    np.testing.assert_allclose(probability.sum(-1), np.ones(3), rtol=1e-5)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is no run directory: recipe\.json is missing"):
        Run(tmp_path)
    with pytest.raises(UsageError, match="is no run directory"):
        Run(tmp_path / "absent")


def test_what_an_incomplete_run_lacks_is_named(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE.to_json()))
    run = Run(tmp_path)
    with pytest.raises(UsageError, match=r"is not complete: it has no summary\.json"):
        _ = run.summary
    with pytest.raises(UsageError, match=r"is not complete: it has no test_outputs\.npz"):
        hardest_errors(run, 3)


def test_runs_are_opened_by_the_last_parts_of_their_directories(directory, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.json").write_text(json.dumps(RECIPE.to_json()))
    runs = by_name([str(tmp_path / "other"), directory])
    assert {name: run.directory for name, run in runs.items()} == {
        "other": tmp_path / "other",
        "mlp_digits": directory,
    }
    assert list(runs) == ["other", "mlp_digits"]


def test_runs_without_names_of_their_own_are_refused(directory):
    with pytest.raises(UsageError, match="are both named mlp_digits"):
        by_name([directory, directory])
    with pytest.raises(UsageError, match="no run to compare"):
        by_name([])


def test_a_damaged_recipe_is_named(tmp_path):
    (tmp_path / "recipe.json").write_text('{"task": ')
    with pytest.raises(UsageError, match=r"recipe\.json is damaged: it holds no JSON object"):
        Run(tmp_path)
