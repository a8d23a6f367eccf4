"""Runs as the launcher leaves them, written here by hand so that every number is known."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dlcore.train.state import TrainState

from dlcore import data, models, tasks
from dlcore.analysis.runs import Run
from dlcore.errors import UsageError
from dlcore.train.checkpoint import Checkpoints

MODEL = {"model": "mlp", "model_options": {"hidden": [7, 5], "num_classes": 10}}
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
    options = dataclasses.asdict(data.ExampleOptions())
    recipe = {"task": "classification", "task_options": {"label_smoothing": 0.1}, **MODEL}
    recipe |= {"data": "digits", "data_options": options}
    (directory / "recipe.json").write_text(json.dumps(recipe))
    (directory / "summary.json").write_text(json.dumps({"status": "complete", "step": 10}))
    lines = [json.dumps(record) + "\n" for record in RECORDS]
    (directory / "metrics.jsonl").write_text("".join(lines))
    label = test_examples()["label"]
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


def test_examples():
    split = data.load("digits").splits["test"]
    return split.fetch(np.arange(len(split)))


test_examples.__test__ = False


def test_the_recipe_and_the_summary_are_as_written(directory):
    run = Run(str(directory))
    assert run.directory == directory
    assert run.recipe["data"] == "digits"
    assert run.summary == {"status": "complete", "step": 10}


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
    examples, outputs = test_examples(), run.test_outputs
    wrong = [
        (outputs["probability"][index, outputs["label"][index]], index)
        for index in range(len(outputs["label"]))
        if outputs["prediction"][index] != outputs["label"][index]
    ]
    expected = [index for _, index in sorted(wrong)]
    errors = run.hardest_errors(5)
    np.testing.assert_array_equal(errors.index, expected[:5])
    np.testing.assert_array_equal(errors.image, examples["image"][expected[:5]])
    np.testing.assert_array_equal(errors.label, examples["label"][expected[:5]])
    np.testing.assert_array_equal(errors.probability, outputs["probability"].max(-1)[expected[:5]])
    np.testing.assert_array_equal(run.hardest_errors(10_000).index, expected)


def test_an_errors_caption_says_the_truth_the_answer_and_how_sure_it_was(directory):
    errors = Run(directory).hardest_errors(3)
    names = tuple("abcdefghij")
    truth, answer = names[errors.label[1]], names[errors.prediction[1]]
    expected = f"{truth} as {answer} ({round(100 * float(errors.probability[1]))}%)"
    assert errors.captions(names)[1] == expected


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "averaged"])
def trained(request, directory):
    """The run with two checkpoints, the older one better, and what that one holds."""
    model = models.create(MODEL["model"], hidden=(7, 5))
    task = tasks.create("classification", model)
    checkpoints = Checkpoints(directory / "checkpoints", mode=task.watched_mode)
    saved = {}
    for step, accuracy in ((5, 0.9), (10, 0.8)):
        batch = {"image": jnp.zeros((2, 8, 8, 1))}
        variables = dict(task.init(jax.random.key(step), batch))
        params = variables.pop("params")
        saved[step] = TrainState(
            step=jnp.asarray(step),
            params=params,
            model_state={"batch_stats": {"mean": jnp.full(3, float(step))}},
            opt_state=optax.adam(0.1).init(params),
            rng=jax.random.key_data(jax.random.key(0)),
            ema_params=jax.tree.map(jnp.negative, params) if request.param else None,
            metrics={},
        )
        checkpoints.save(step, saved[step], {}, watched=accuracy)
        checkpoints.wait()
    checkpoints.close()
    yield directory, saved[5]
    for path in sorted((directory / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_load_gives_the_task_and_the_variables_of_the_best_checkpoint(trained):
    directory, state = trained
    task, variables = Run(directory).load()
    assert task.model.hidden == (7, 5)
    assert task.label_smoothing == 0.1
    expected = state.variables()
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_a_loaded_model_can_be_applied(trained):
    task, variables = Run(trained[0]).load()
    images = test_examples()["image"][:3]
    params = {"params": variables["params"]}
    probability = task.predict(params, {"image": images})
    np.testing.assert_allclose(probability.sum(-1), np.ones(3), rtol=1e-5)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is no run directory: it has no recipe\.json"):
        Run(tmp_path)
    with pytest.raises(UsageError, match="is no run directory"):
        Run(tmp_path / "absent")


def test_what_an_incomplete_run_lacks_is_named(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    run = Run(tmp_path)
    with pytest.raises(UsageError, match=r"is not complete: it has no summary\.json"):
        _ = run.summary
    with pytest.raises(UsageError, match=r"is not complete: it has no test_outputs\.npz"):
        run.hardest_errors(3)


def test_a_damaged_recipe_is_named(tmp_path):
    (tmp_path / "recipe.json").write_text('{"task": ')
    with pytest.raises(UsageError, match=r"recipe\.json is damaged: it is not JSON"):
        Run(tmp_path)
