"""The loop: what it records, when it saves, and how it ends."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from dlcore.errors import TrainingError, UsageError
from dlcore.metrics import compute
from dlcore.optim.rate import rescale
from dlcore.train import loop as loop_module
from dlcore.train.callbacks import Callback, LossTarget, Plateau
from dlcore.train.checkpoint import Checkpoints
from dlcore.train.evaluation import evaluate
from dlcore.train.loop import Start


def records(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def saved(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir())


class Recorder(Callback):
    """Remembers all that it hears, and asks for the end after a step if told to."""

    def __init__(self, end=None):
        self.heard, self._end = [], end

    def on_start(self, step, num_steps):
        self.heard.append(("start", step, num_steps))

    def on_step(self, step):
        self.heard.append(("step", step))

    def on_record(self, record):
        self.heard.append((record["split"], record["step"]))

    def on_end(self):
        self.heard.append(("end",))

    def stop_reason(self):
        return "enough" if ("validation", self._end) in self.heard else None


@pytest.fixture(scope="module")
def whole(training, tmp_path_factory):
    """A complete training: its directory, its outcome, and what a listener heard."""
    directory, recorder = tmp_path_factory.mktemp("whole") / "run", Recorder()
    return directory, training().run(directory, recorder), recorder.heard


# Records.


def test_records_evaluations_and_checkpoints_come_when_they_are_due(whole):
    directory, outcome, heard = whole
    trained, evaluated = [3, 6, 9, 12, 15, 18, 20], [7, 14, 20]
    expected = [("start", 0, 20)]
    for step in range(1, 21):
        expected.append(("step", step))
        expected += [("train", step)] * (step in trained)
        expected += [("validation", step)] * (step in evaluated)
    assert heard == [*expected, ("end",)]
    assert [(r["split"], r["step"]) for r in records(directory)] == [
        event for event in expected if event[0] in ("train", "validation")
    ]
    assert all(r["epoch"] == round(r["step"] / 7, 4) for r in records(directory))
    assert (outcome.status, outcome.reason, outcome.step) == ("complete", "20 steps", 20)
    assert set(saved(directory)) == {16, 20, outcome.best["step"]}


def test_a_training_record_is_the_mean_over_the_steps_since_the_last_one(training, whole):
    small = training()
    state, expected = small.program.initialize(), []
    stream = small.dataset.train_batches(8, 3).start(0)
    for step, batch in zip(range(1, 21), stream, strict=False):
        state, _ = small.program.step(state, batch)
        if step % 3 == 0 or step == 20:
            expected.append(compute(state.metrics))
    written = [record for record in records(whole[0]) if record["split"] == "train"]
    for record, values in zip(written, expected, strict=True):
        assert {name: record[name] for name in values} == values


def test_a_validation_record_is_what_the_checkpoint_of_its_step_evaluates_to(training, whole):
    small = training()
    directory, outcome, _ = whole
    checkpoints = Checkpoints(directory / "checkpoints", mode="max", read_only=True)
    written = {r["step"]: r for r in records(directory) if r["split"] == "validation"}
    for step in (outcome.best["step"], 20):
        state = checkpoints.restore(small.program.abstract_state, step).state
        batches = small.dataset.evaluation_batches("validation", 8)
        values = evaluate(small.program, state, batches)
        assert written[step]["accuracy"] == values["accuracy"]
        assert written[step]["loss"] == values["loss"]
    checkpoints.close()


def test_the_best_checkpoint_is_the_newest_of_those_with_the_highest_watched_metric(whole):
    directory, outcome, _ = whole
    values = {r["step"]: r["accuracy"] for r in records(directory) if r["split"] == "validation"}
    best = max(values, key=lambda step: (values[step], step))
    assert outcome.best == {"step": best, "metric": "accuracy", "value": values[best]}


def test_two_trainings_are_equal_to_the_last_bit(training, whole, assert_same_run, tmp_path):
    directory, outcome, _ = whole
    assert_same_run(tmp_path / "run", training().run(tmp_path / "run"), directory, outcome)


def test_what_is_found_after_an_evaluation_is_recorded_beside_its_metrics(training, tmp_path):
    small, seen = training(), []

    def find(step, number, state):
        seen.append((step, number, int(state.step)))
        return {"found": step / 2}

    small.run(tmp_path / "run", on_evaluation=find)
    assert seen == [(7, 1, 7), (14, 2, 14), (20, 3, 20)]
    written = [record for record in records(tmp_path / "run") if record["split"] == "validation"]
    assert [record["found"] for record in written] == [3.5, 7, 10]
    assert all("accuracy" in record for record in written)


def test_a_training_may_go_on_with_the_numbers_of_another(training, tmp_path):
    small, directory = training(), tmp_path / "run"
    first = small.run(directory, num_steps=6)
    start = Start(first.step, first.epoch, first.position, first.seconds, first.skipped)
    assert start.epoch == pytest.approx(6 / 7)
    second = small.run(directory, num_steps=8, start=start, checkpoints="later")
    assert (second.first_step, second.step) == (6, 14)
    assert second.epoch == pytest.approx(2)
    assert int(second.state.step) == 14
    after = [(r["split"], r["step"]) for r in records(directory) if r["step"] > 6]
    # Evaluations are counted from where it began, records by the number of the step.
    assert after == [
        ("train", 9),
        ("train", 12),
        ("validation", 13),
        ("train", 14),
        ("validation", 14),
    ]
    # Its batches are its own: what it learned first is what the other one did.
    losses = {r["step"]: r["loss"] for r in records(directory) if r["split"] == "train"}
    assert losses[6] != losses[9]


# How it ends.


def test_a_listener_can_end_it_after_an_evaluation(training, tmp_path):
    outcome = training().run(tmp_path / "run", Recorder(end=7))
    assert (outcome.status, outcome.reason, outcome.step) == ("complete", "enough", 7)
    assert saved(tmp_path / "run") == [4, 7]


def test_it_closes_everything_whatever_ends_it(training, tmp_path):
    class Broken(Callback):
        def on_step(self, step):
            if step == 5:
                raise ZeroDivisionError

    recorder = Recorder()
    with pytest.raises(ZeroDivisionError):
        training().run(tmp_path / "run", recorder, Broken())
    assert recorder.heard[-1] == ("end",)
    # The checkpoint of step 4 was under way.
    assert saved(tmp_path / "run") == [4]


class Signal(Callback):
    """Sends this process a signal after a step."""

    def __init__(self, step, number=signal.SIGTERM):
        self._step, self._number = step, number

    def on_step(self, step):
        if step == self._step:
            os.kill(os.getpid(), self._number)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (5, signal.SIGTERM),
        (5, signal.SIGINT),
        # A checkpoint is due at that step anyway.
        (4, signal.SIGTERM),
        (7, signal.SIGTERM),
    ],
)
def test_a_signal_saves_and_stops_and_the_resumed_training_ends_as_if_it_had_not(
    training, whole, assert_same_run, tmp_path, step, number
):
    before = signal.getsignal(number)
    outcome = training().run(tmp_path / "run", Signal(step, number))
    assert outcome.status == "stopped"
    assert outcome.reason == f"{signal.Signals(number).name} at step {step}"
    assert saved(tmp_path / "run")[-1] == outcome.step == step
    assert signal.getsignal(number) == before
    resumed = training().run(tmp_path / "run")
    assert resumed.first_step == step
    assert_same_run(tmp_path / "run", resumed, *whole[:2])


def test_a_second_signal_does_not_end_what_the_first_one_saves(
    training, whole, assert_same_run, tmp_path, monkeypatch
):
    original = Checkpoints.save

    def save_under_fire(*args):
        os.kill(os.getpid(), signal.SIGINT)
        original(*args)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_under_fire)
        outcome = training().run(tmp_path / "run", Signal(3, signal.SIGINT))
    assert (outcome.status, outcome.reason) == ("stopped", "SIGINT at step 3")
    assert saved(tmp_path / "run") == [3]
    assert_same_run(tmp_path / "run", training().run(tmp_path / "run"), *whole[:2])


def test_a_signal_at_the_last_step_changes_nothing(training, whole, assert_same_run, tmp_path):
    outcome = training().run(tmp_path / "run", Signal(20))
    assert_same_run(tmp_path / "run", outcome, *whole[:2])


# A rate that falls.


class Falling(Plateau):
    """Lowers the rate by half at every evaluation but the first."""

    def __init__(self):
        super().__init__(0.5, metric="step", mode="min", patience=1)


def test_a_fallen_rate_is_recorded_and_the_parameters_go_on(training, whole, tmp_path):
    directory = tmp_path / "run"
    outcome = training().run(directory, Falling())
    # Evaluations are at 7, 14 and 20; the record of step 15 is of steps 13 to 15.
    expected = {3: 1, 6: 1, 9: 1, 12: 1, 18: 0.5, 20: 0.5}
    rates = [
        {r["step"]: r["learning_rate"] for r in records(run) if r["split"] == "train"}
        for run in (directory, whole[0])
    ]
    for step, multiplier in expected.items():
        assert rates[0][step] == pytest.approx(multiplier * rates[1][step], rel=1e-6)
    assert rates[0][15] < rates[1][15]
    lines, others = ((d / "metrics.jsonl").read_bytes().splitlines() for d in (directory, whole[0]))
    # Up to the evaluation at step 14 nothing differs.
    assert lines[:6] == others[:6]
    assert outcome.best["step"] in saved(directory)


# The younger the better: the first evaluation is the best.
FIRST_IS_BEST = {
    "watched_metric": "age",
    "watched_mode": "min",
    "keep": 3,
    "checkpoint_every": 0,
    "on_evaluation": lambda step, number, state: {"age": float(step)},
}


def test_a_restart_takes_all_that_was_learned_from_the_best_checkpoint(training, tmp_path):
    small, directory = training(), tmp_path / "run"
    outcome = small.run(directory, Falling(), restart_from_best=True, **FIRST_IS_BEST)
    assert outcome.best["step"] == 7
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    best, restarted = (
        jax.device_get(checkpoints.restore(small.program.abstract_state, step).state)
        for step in (7, 14)
    )
    checkpoints.close()
    for part in ("params", "average", "model_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(restarted, part), getattr(best, part))
    # So it did with the optimizer's state, but for the factor.
    jax.tree.map(np.testing.assert_array_equal, restarted.opt_state, rescale(best.opt_state, 0.5))
    assert (best.step, restarted.step) == (7, 14)
    np.testing.assert_array_equal(best.rng, restarted.rng)
    # The counts of the record under way go on: two steps, 13 and 14.
    assert restarted.metrics["learning_rate"].count == 2


def test_what_is_saved_after_a_restart_is_not_taken_for_what_was_evaluated(training, tmp_path):
    # Steps 14 and 20 are older than 7, but the checkpoints there hold what 7 had learned.
    plan = {**FIRST_IS_BEST, "watched_mode": "max"}
    outcome = training().run(tmp_path / "run", Falling(), restart_from_best=True, **plan)
    assert outcome.best["step"] == 7


def test_with_no_best_to_go_back_to_the_rate_falls_all_the_same(training, tmp_path):
    plans = [{"restart_from_best": True, "watched_metric": None}, {}]
    for index, plan in enumerate(plans):
        training().run(tmp_path / str(index), Falling(), **plan)
    one, other = (tmp_path / str(index) / "metrics.jsonl" for index in range(2))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["pmap", "data", "fsdp"])
def test_rates_and_restarts_are_the_same_on_several_devices(training, tmp_path, layout):
    plan = {"restart_from_best": True, "evaluate_every": 4, "num_steps": 12}
    ends = {
        name: training("classification", name).run(tmp_path / name, Falling(), **plan)
        for name in ("jit", layout)
    }
    for record, expected in zip(*(records(tmp_path / name) for name in ends), strict=True):
        assert record.pop("split") == expected.pop("split")
        assert record == pytest.approx(expected, rel=1e-4)
    program = training("classification", layout).program
    params = program.parallelism.canonical_state(ends[layout].state).params
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        jax.device_get(params),
        jax.device_get(ends["jit"].state.params),
    )


def test_evaluations_before_the_first_that_counts_are_no_candidates(training, tmp_path):
    outcome = training().run(tmp_path / "run", watched_after=7, **FIRST_IS_BEST)
    assert outcome.best["step"] == 14


# Numbers that are not finite.


def test_a_loss_that_is_not_finite_stops_it_and_names_step_metric_and_checkpoint(
    training, poisoned, tmp_path
):
    small = training()
    with pytest.raises(TrainingError) as error:
        small.run(tmp_path / "run", dataset=poisoned(small.dataset, {10}))
    message = str(error.value)
    assert "step 10: loss is nan" in message
    assert f"last good checkpoint: step 8 in {tmp_path}/run/checkpoints/8" in message
    assert "on_nonfinite=skip" in message
    assert saved(tmp_path / "run") == [7, 8]
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    state = checkpoints.restore_newest(small.program.abstract_state).state
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(state.params))
    checkpoints.close()


def test_before_the_first_checkpoint_there_is_none_to_name(training, poisoned, tmp_path):
    small = training()
    with pytest.raises(TrainingError, match="step 2: .* last good checkpoint: none"):
        small.run(tmp_path / "run", dataset=poisoned(small.dataset, {2}))


def test_a_skipped_update_changes_nothing_but_the_count(training, poisoned, tmp_path):
    small = training()
    steps = {}

    def noting(state, batch):
        state, report = small.program.step(state, batch)
        steps[len(steps) + 1] = jax.device_get(state)
        return state, report

    noted = dataclasses.replace(small, program=dataclasses.replace(small.program, step=noting))
    plan = {"dataset": poisoned(small.dataset, {5}), "on_nonfinite": "skip", "num_steps": 6}
    outcome = noted.run(tmp_path / "run", **plan)
    assert (outcome.status, outcome.skipped) == ("complete", 1)
    for part in ("params", "opt_state", "average", "model_state", "metrics"):
        before, after = getattr(steps[4], part), getattr(steps[5], part)
        jax.tree.map(np.testing.assert_array_equal, before, after)
    assert (steps[4].step, steps[5].step) == (4, 5)
    changed = jax.tree.map(np.array_equal, steps[5].params, steps[6].params)
    assert not any(jax.tree.leaves(changed))


def test_a_record_of_skipped_updates_only_is_null(training, poisoned, tmp_path):
    small = training()
    dataset = poisoned(small.dataset, {4, 5, 6})
    small.run(tmp_path / "run", dataset=dataset, on_nonfinite="skip")
    losses = {r["step"]: r["loss"] for r in records(tmp_path / "run") if r["split"] == "train"}
    assert [step for step, loss in losses.items() if loss is None] == [6]


@pytest.mark.parametrize(
    ("bad", "ends"), [(range(2, 102), True), ([*range(2, 101), *range(102, 110)], False)]
)
def test_so_many_skipped_updates_in_a_row_end_it(training, poisoned, tmp_path, bad, ends):
    small = training()
    plan = {"num_steps": 112, "evaluate_every": 112, "checkpoint_every": 0, "log_every": 112}
    running = small.loop(
        tmp_path / "run", dataset=poisoned(small.dataset, set(bad)), on_nonfinite="skip", **plan
    )
    assert loop_module.MAXIMUM_CONSECUTIVE_SKIPS == 100
    if ends:
        with pytest.raises(TrainingError, match="step 101: .* after 100 skipped updates in a row"):
            running.run()
    else:
        assert running.run().skipped == len(bad)


def test_a_watched_metric_that_is_not_finite_is_never_the_best(training, tmp_path):
    small = training()
    original = loop_module.evaluate
    count = iter(range(10))

    def overflowing(*args):
        values = original(*args)
        return {**values, "accuracy": float("inf")} if next(count) == 1 else values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "evaluate", overflowing)
        outcome = small.run(tmp_path / "run")
    assert outcome.best["step"] in (7, 20)
    assert np.isfinite(outcome.best["value"])


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_best_checkpoint_is_finite_in_all_of_its_metrics(training, tmp_path, metric, caplog):
    small = training()
    original = loop_module.evaluate
    count = iter(range(10))

    def diverging(*args):
        values = original(*args)
        return {**values, "accuracy": 1.0, "loss": float("nan")} if next(count) == 1 else values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "evaluate", diverging)
        watched = {
            "watched_metric": metric,
            "watched_mode": "max" if metric == "accuracy" else "min",
        }
        outcome = small.run(tmp_path / "run", **watched)
    assert outcome.best["step"] in (7, 20)
    assert "step 14: validation loss is not finite: never the best" in caplog.text


def test_parameters_that_an_update_makes_infinite_are_not_saved(training, tmp_path):
    small = training()

    def overflowing(state, batch):
        state, report = small.program.step(state, batch)
        return state, report.replace(finite=report.finite & (state.step != 10))

    patched = dataclasses.replace(
        small, program=dataclasses.replace(small.program, step=overflowing)
    )
    with pytest.raises(TrainingError, match="step 10: .*, but the updated parameters are not fin"):
        patched.run(tmp_path / "run")


# What a training may do without.


def test_without_a_validation_split_the_newest_checkpoint_counts(training, tmp_path):
    small = training()

    splits = {"train": small.dataset.splits["train"]}
    without = dataclasses.replace(small.dataset, splits=splits)
    outcome = small.run(tmp_path / "run", LossTarget(100.0), dataset=without)
    assert (outcome.best, outcome.step) == (None, 20)
    assert saved(tmp_path / "run") == [16, 20]
    assert {record["split"] for record in records(tmp_path / "run")} == {"train"}


def test_without_a_watched_metric_the_newest_checkpoint_counts(training, tmp_path):
    outcome = training().run(tmp_path / "run", watched_metric=None)
    assert outcome.best is None
    assert saved(tmp_path / "run") == [16, 20]


def test_a_watched_metric_that_no_evaluation_gives_is_refused(training, tmp_path):
    with pytest.raises(UsageError, match="'f1' is not evaluated: it is one of accuracy, loss"):
        training().run(tmp_path / "run", watched_metric="f1")
