"""A session: a recipe from Python, what its run leaves, and what evaluators see on the way."""

import dataclasses
import json
import logging
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import evaluators, plots
from dlcore.errors import NotFiniteError, UsageError
from dlcore.evaluators import Findings
from dlcore.train import Run, Session, Settings
from tests import small
from tests.guests.harness import (
    CrashError,
    after_steps,
    assert_same_run,
    crash,
    terminate,
)


@dataclasses.dataclass(frozen=True)
class Probe(evaluators.Evaluator):
    """Remembers what it is handed, and gives something of every kind."""

    calls: ClassVar = []

    def evaluate(self, trained, split, key):
        self.calls.append((trained, split, key))
        mean = float(np.mean([np.mean(leaf) for leaf in jax.tree.leaves(trained.variables)]))
        return Findings(
            scalars={"mean_parameter": mean},
            arrays={f"{split}_probe": {"number": np.arange(3)}},
            texts={"probe": f"on {split}\n"},
        )


@dataclasses.dataclass(frozen=True)
class Rival(evaluators.Evaluator):
    """Gives a scalar of the same name."""

    def evaluate(self, trained, split, key):
        return Findings(scalars={"mean_parameter": 0.0})


@dataclasses.dataclass(frozen=True)
class Artist(evaluators.Evaluator):
    """Gives an array of the same name."""

    def evaluate(self, trained, split, key):
        return Findings(arrays={f"{split}_probe": {}})


@dataclasses.dataclass(frozen=True)
class Boaster(evaluators.Evaluator):
    """Gives a scalar that has the name of a metric."""

    def evaluate(self, trained, split, key):
        return Findings(scalars={"accuracy": 1.0})


@dataclasses.dataclass(frozen=True)
class Failing(evaluators.Evaluator):
    """Gives nothing."""

    def evaluate(self, trained, split, key):
        raise ZeroDivisionError("nothing to\ndivide by")


@dataclasses.dataclass(frozen=True)
class Clumsy(evaluators.Evaluator):
    """Gives one text, beside a figure, arrays and a text that cannot be written."""

    def evaluate(self, trained, split, key):
        unfinished = plots.histograms({r"$\frac{1$": [np.arange(3.0)]}, [""])
        return Findings(
            scalars={"steadiness": 0.5},
            figures={"unfinished": unfinished},
            arrays={"objects": {"one": np.asarray([None])}},
            texts={"no/such/folder": "lost", "kept": "\N{SNOWMAN}"},
        )


evaluators.register("session_probe", Probe)
evaluators.register("session_failing", Failing)
evaluators.register("session_clumsy", Clumsy)
evaluators.register("session_rival", Rival)
evaluators.register("session_artist", Artist)
evaluators.register("session_boaster", Boaster)
PROBED = f"{small.NO_FIGURES} session_probe:every=2"


@pytest.fixture(scope="module")
def session():
    """Twelve steps with four evaluations, at the steps 3, 6, 9 and 12."""
    data_options = {"validation_fraction": 0.65}
    return Session(
        small.recipe(data_options=data_options, num_epochs=4, evaluators=PROBED, log_every=3)
    )


@pytest.fixture(scope="module")
def whole(session, tmp_path_factory):
    """A complete run, its summary, and the calls of its evaluator."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    Probe.calls.clear()
    summary = session.run(directory)
    return Run(directory), summary, list(Probe.calls)


# What a run leaves.


def test_a_run_returns_the_summary_that_it_leaves(session, whole):
    run, summary, _ = whole
    assert json.loads((run.directory / "summary.json").read_text()) == summary
    assert (summary["status"], summary["step"], summary["resumed"]) == ("complete", 12, False)
    params = jax.tree.leaves(session.prepared.program.abstract_state.params)
    assert summary["parameters"] == sum(leaf.size for leaf in params)
    assert summary["test"].keys() == {"loss", "accuracy", "mean_parameter"}
    assert summary["validation"].keys() == {"loss", "accuracy"}
    assert summary["best"]["metric"] == "accuracy"
    assert summary["devices"]["parallelism"] == "jit"


def test_the_recipe_that_is_kept_has_what_the_dataset_settled(session, whole):
    run, _, _ = whole
    assert run.recipe == session.recipe
    assert run.recipe.model_options["num_classes"] == 3
    assert run.recipe.model_options["hidden"] == (4,)
    assert run.recipe.data_options["normalize"] == "mean_std"


def test_a_run_that_is_complete_returns_its_summary_and_does_nothing(session, whole):
    run, summary, _ = whole

    def contents():
        files = (path for path in run.directory.rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in files if path.name != ".lock"}

    before = contents()
    Probe.calls.clear()
    with after_steps(1, crash):
        assert session.run(run.directory) == summary
        # So does a session that has not trained it.
        assert Session(run.recipe).run(str(run.directory)) == summary
    assert contents() == before
    assert not Probe.calls


def test_a_run_that_crashed_or_was_stopped_ends_as_if_it_had_not(session, whole, tmp_path):
    directory = tmp_path / "run"
    with after_steps(8, crash), pytest.raises(CrashError):
        session.run(directory)
    with after_steps(4, terminate):
        stopped = session.run(directory)
    assert stopped == {"status": "stopped", "reason": "SIGTERM at step 10"}
    assert not (directory / "summary.json").exists()
    assert session.run(directory)["resumed"]
    assert_same_run(session, directory, whole[0])


def test_four_devices_train_what_one_does(session, whole, tmp_path):
    four = Session(whole[0].recipe, Settings(parallelism="data"), jax.devices()[:4])
    summary = four.run(tmp_path / "run")
    assert summary["devices"]["count"] == 4
    one, other = (run.metrics for run in (whole[0], Run(tmp_path / "run")))
    for split, columns in one.items():
        for name, column in columns.items():
            np.testing.assert_allclose(other[split][name], column, rtol=1e-4, err_msg=name)


def test_another_recipe_has_no_place_in_a_run_s_directory(whole):
    other = Session(dataclasses.replace(whole[0].recipe, learning_rate=0.2))
    with pytest.raises(UsageError, match="belongs to a run with learning_rate=0.1, this one has"):
        other.run(whole[0].directory)


# What evaluators see.


def test_an_evaluator_is_called_at_its_cadence_and_for_the_best_at_the_end(whole):
    run, summary, calls = whole
    assert [split for _, split, _ in calls] == ["validation", "validation", "test"]
    found = [
        record["mean_parameter"]
        for record in run.records
        if record["split"] == "validation" and "mean_parameter" in record
    ]
    steps = [r["step"] for r in run.records if "mean_parameter" in r]
    assert steps == [6, 12]
    for (trained, _, _), recorded in zip(
        calls, [*found, summary["test"]["mean_parameter"]], strict=True
    ):
        leaves = jax.tree.leaves(trained.variables)
        assert recorded == pytest.approx(np.mean([np.mean(leaf) for leaf in leaves]))
    best = run.trained("best").variables
    jax.tree.map(np.testing.assert_array_equal, calls[-1][0].variables, best)


def test_its_findings_are_kept_by_step_and_at_the_end_in_the_run_itself(whole):
    run, _, _ = whole
    kept = sorted(path.name for path in (run.directory / "evaluations").iterdir())
    assert kept == ["step_12", "step_6"]
    for name in kept:
        place = run.directory / "evaluations" / name
        assert (place / "probe.txt").read_text() == "on validation\n"
        with np.load(place / "validation_probe.npz") as arrays:
            np.testing.assert_array_equal(arrays["number"], [0, 1, 2])
    assert (run.directory / "probe.txt").read_text() == "on test\n"
    np.testing.assert_array_equal(run.arrays("test_probe")["number"], [0, 1, 2])


def test_it_gets_the_same_key_at_every_call_and_none_that_the_first_state_is_drawn_with(whole):
    keys = {tuple(jax.random.key_data(key).tolist()) for _, _, key in whole[2]}
    assert len(keys) == 1
    seeded = jax.random.key(0)
    for other in (seeded, *jax.random.split(seeded)):
        assert tuple(jax.random.key_data(other).tolist()) not in keys


def test_it_sees_the_metrics_recorded_so_far(whole):
    seen = [trained.metrics["validation"]["step"].tolist() for trained, _, _ in whole[2]]
    # The record of the evaluation that calls it comes after it.
    assert seen == [[3], [3, 6, 9], [3, 6, 9, 12]]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (f"{PROBED} session_rival", "'session_rival' gives 'mean_parameter' among its scalars"),
        (f"{PROBED} session_artist", "'session_artist' gives 'test_probe' among its arrays, whi"),
        (f"{small.NO_FIGURES} session_boaster", "gives 'accuracy', which is the name of a metric"),
    ],
)
def test_what_has_a_name_that_is_taken_is_refused(tmp_path, chosen, message):
    session = Session(small.recipe(evaluators=chosen, num_epochs=1))
    with pytest.raises(UsageError, match=message):
        session.run(tmp_path / "run")


def test_what_cannot_be_found_drawn_or_written_costs_a_line_and_nothing_else(tmp_path, caplog):
    chosen = f"{small.NO_FIGURES} session_failing:every=1 session_clumsy"
    session = Session(small.recipe(evaluators=chosen, num_epochs=1))
    with caplog.at_level(logging.WARNING, logger="dlcore"):
        summary = session.run(tmp_path)
    assert summary["status"] == "complete"
    assert summary["test"]["steadiness"] == 0.5
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (tmp_path / "kept.txt").read_bytes() == "\N{SNOWMAN}".encode()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("dlcore")]
    assert not [line for line in said if "\n" in line]
    failing = "evaluator 'session_failing' failed: ZeroDivisionError: nothing to divide by"
    assert said[:-3] == [failing, failing]
    for line, what in zip(said[-3:], ("figure 'unf", "arrays 'obj", "text 'no/such"), strict=True):
        assert line.startswith(what)


# A training that fails.


def test_a_run_that_learned_nothing_says_so_and_its_summary_is_json(tmp_path):
    changes = {"optimizer": "sgd", "learning_rate": 1e38, "num_epochs": 2}
    session = Session(small.recipe(**changes), Settings(on_nonfinite="skip"))
    for _ in range(2):
        with pytest.raises(NotFiniteError, match="the run learned nothing: its .* loss is not fin"):
            session.run(tmp_path / "run")

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "run" / "summary.json").read_text()
    summary = json.loads(text, parse_constant=refuse)
    assert summary["test"]["loss"] is None
    assert 0 < summary["skipped_updates"] < summary["step"]


# Rows of a split.


def brightness(variables, batch):
    del variables
    return {"mean": batch["image"].mean((1, 2, 3)), "label": batch["label"]}


@pytest.mark.parametrize(("layout", "devices"), [("jit", 1), ("data", 4), ("pmap", 4)])
def test_rows_are_what_a_function_gives_for_every_example_in_order(whole, layout, devices):
    run = Run(whole[0].directory)
    session = Session(run.recipe, Settings(parallelism=layout), jax.devices()[:devices])
    trained = session.trained(run.directory)
    traced = []

    def score(variables, batch, shift):
        traced.append(1)
        return trained.learner.model.apply(variables, batch["image"]) + shift

    dataset = trained.dataset
    for split in ("validation", "test"):
        count = dataset.num_examples(split)
        # The last batch is ragged.
        assert count % trained.batch_size
        found = trained.rows(brightness, split)
        examples = dataset.splits[split].fetch(np.arange(count))
        prepared = dataset.transform(jax.tree.map(jnp.asarray, examples), None, False)
        np.testing.assert_array_equal(found["label"], examples["label"])
        expected = prepared["image"].mean((1, 2, 3))
        np.testing.assert_allclose(found["mean"], expected, rtol=1e-5, atol=1e-6)
        plain, shifted = (trained.rows(score, split, np.float32(shift)) for shift in (0, 2))
        expected = trained.learner.model.apply(trained.variables, prepared["image"])
        np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(shifted, plain + 2, rtol=1e-5, atol=1e-5)
    assert len(traced) == 1


def test_a_random_key_among_the_inputs_is_another_one_for_every_batch(whole):
    trained = whole[0].trained()

    def draw(variables, batch, key):
        return jnp.broadcast_to(jax.random.bits(key), batch["label"].shape)

    drawn, again, other = (
        trained.rows(draw, "validation", jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(drawn, again)
    size = trained.batch_size
    batches = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    assert all(len(set(batch)) == 1 for batch in batches)
    assert len(np.unique(drawn)) == len(batches)
    assert not np.isin(other, drawn).any()


# What is refused before any work.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "mlpp"}, "unknown model 'mlpp': did you mean"),
        ({"data": "small_blob"}, "small_blob"),
        ({"num_epochs": 0}, "num_epochs=0: it must be at least 1"),
        ({"groups": "trunk/.*:frozen"}, "groups=trunk/.*: it matches no parameter"),
        ({"evaluators": "samples"}, "evaluators=samples: 'samples' is for a task that samples"),
        ({"start_mapping": "a<-b"}, "start_mapping=a<-b needs weights: set start_from"),
        ({"imports": ("no_such_module",)}, "module 'no_such_module' of recipe 'small' cannot"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_and_leaves_nothing(changes, message, tmp_path):
    with pytest.raises(UsageError) as error:
        Session(small.recipe(**changes)).run(tmp_path / "run")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_nothing_is_said_of_a_training_that_goes_well(session, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="dlcore"):
        session.run(tmp_path / "run")
    assert not [record for record in caplog.records if record.name.startswith("dlcore")]
