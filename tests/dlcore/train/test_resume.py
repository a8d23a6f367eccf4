"""A training that is broken off and taken up again equals one that was never stopped."""

import itertools
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore.errors import TrainingError
from dlcore.train.callbacks import Callback, EarlyStopping, LossTarget, Plateau

REGIMES = ["perceptron", "language_model", "gan"]


class CrashError(Exception):
    """What ends a training in these tests, as nothing in it foresees."""


class CrashAt(Callback):
    """Raises after a step was handed to the devices, before its report, records and checkpoint."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, step: int) -> None:
        if step == self._step:
            raise CrashError(step)


@pytest.fixture(scope="session")
def uninterrupted(training, tmp_path_factory):
    """The directory and outcome of each regime's training, made once."""
    made = {}

    def run(regime):
        if regime not in made:
            directory = tmp_path_factory.mktemp(regime) / "run"
            made[regime] = directory, training(regime).run(directory)
        return made[regime]

    return run


@pytest.mark.parametrize(
    "regime", ["classification", pytest.param("language_model", marks=pytest.mark.slow)]
)
@settings(max_examples=2, deadline=None)
@given(crashes=st.lists(st.integers(1, 20), min_size=1, max_size=3, unique=True).map(sorted))
def test_a_training_that_crashed_at_any_steps_ends_as_if_it_had_not(
    training, uninterrupted, assert_same_run, tmp_path_factory, regime, crashes
):
    directory = tmp_path_factory.mktemp("crashed") / "run"
    for step in crashes:
        with pytest.raises(CrashError):
            training(regime).run(directory, CrashAt(step))
    outcome = training(regime).run(directory)
    assert outcome.first_step < 20
    assert_same_run(directory, outcome, *uninterrupted(regime))


# Before, at and behind the checkpoints of every 4 and every 7 steps, at the start and at the end.
SOME_STEPS = (1, 4, 5, 8, 9, 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regime", "step"),
    [
        *(("classification", step) for step in range(1, 21)),
        *itertools.product(REGIMES, SOME_STEPS),
    ],
)
def test_a_training_that_crashed_at_this_step_ends_as_if_it_had_not(
    training, uninterrupted, assert_same_run, tmp_path, regime, step
):
    with pytest.raises(CrashError):
        training(regime).run(tmp_path / "run", CrashAt(step))
    outcome = training(regime).run(tmp_path / "run")
    # Every 4 and every 7 steps there is a checkpoint; the crash comes before that of its own step.
    assert outcome.first_step == max(s for s in (0, 4, 7, 8, 12, 14, 16) if s < step)
    assert_same_run(tmp_path / "run", outcome, *uninterrupted(regime))


def test_a_training_that_was_complete_is_taken_up_at_its_end(
    training, uninterrupted, assert_same_run, tmp_path
):
    training().run(tmp_path / "run")
    outcome = training().run(tmp_path / "run")
    assert outcome.first_step == 20
    assert_same_run(tmp_path / "run", outcome, *uninterrupted("classification"))


def never_better() -> EarlyStopping:
    """Stops at the third evaluation, at step 9: no accuracy is above the first one's by so much."""
    return EarlyStopping("step", "min", patience=2)


@pytest.fixture(scope="module")
def impatient(training, tmp_path_factory):
    """A plan, and the directory and outcome of the training that patience ended."""
    plan = {"evaluate_every": 3, "checkpoint_every": 2}
    directory = tmp_path_factory.mktemp("impatient") / "run"
    return plan, directory, training().run(directory, never_better(), **plan)


@pytest.mark.parametrize(
    "crash", [4, 7, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 5, 8))]
)
def test_patience_goes_on_counting_where_it_was(
    training, impatient, assert_same_run, tmp_path, crash
):
    plan, directory, expected = impatient
    assert expected.step == 9
    assert expected.reason == "no better validation step in 2 evaluations"
    with pytest.raises(CrashError):
        training().run(tmp_path / "run", CrashAt(crash), never_better(), **plan)
    # Other listeners, and in another order, make no difference.
    outcome = training().run(tmp_path / "run", never_better(), Callback(), **plan)
    assert_same_run(tmp_path / "run", outcome, directory, expected)


@pytest.mark.parametrize("listener", [never_better, lambda: LossTarget(100.0)])
def test_a_training_that_ended_early_does_not_go_on_when_it_is_taken_up(
    training, assert_same_run, tmp_path, listener
):
    plan = {"evaluate_every": 3}
    expected = training().run(tmp_path / "run", listener(), **plan)
    assert expected.step < 20
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    outcome = training().run(tmp_path / "run", listener(), **plan)
    assert outcome.first_step == expected.step
    assert_same_run(tmp_path / "run", outcome, tmp_path / "run", expected)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def falling() -> Plateau:
    """Lowers the rate at every evaluation but the first: no step is below the first one's."""
    return Plateau(0.5, metric="step", mode="min", patience=1)


@pytest.fixture(scope="module", params=[False, True], ids=["going_on", "restarting"])
def fallen(request, training, tmp_path_factory):
    """A plan, and the directory and outcome of the training whose rate fell four times."""
    plan = {"evaluate_every": 4, "checkpoint_every": 3, "restart_from_best": request.param}
    directory = tmp_path_factory.mktemp("fallen") / "run"
    return plan, directory, training().run(directory, falling(), **plan)


# Before a drop, at its step, right behind it with its checkpoint and with a later one.
@pytest.mark.parametrize("crashes", [(7, 8), (9,), (11, 16, 19)])
def test_a_rate_that_fell_is_found_again_and_falls_where_it_would_have(
    training, fallen, assert_same_run, tmp_path, crashes
):
    plan, directory, expected = fallen
    for crash in crashes:
        with pytest.raises(CrashError):
            training().run(tmp_path / "run", CrashAt(crash), falling(), **plan)
    outcome = training().run(tmp_path / "run", falling(), **plan)
    assert_same_run(tmp_path / "run", outcome, directory, expected)


@pytest.fixture(scope="module")
def skipping(training, poisoned, tmp_path_factory):
    """A plan, and the directory and outcome of the training that passed over three updates."""
    plan = {"dataset": poisoned(training().dataset, {2, 5, 9}), "on_nonfinite": "skip"}
    directory = tmp_path_factory.mktemp("skipping") / "run"
    return plan, directory, training().run(directory, **plan)


@pytest.mark.parametrize("crash", [3, 6, 10, 15])
def test_skipped_updates_are_counted_across_a_resume(
    training, skipping, assert_same_run, tmp_path, crash
):
    plan, directory, expected = skipping
    assert expected.skipped == 3
    with pytest.raises(CrashError):
        training().run(tmp_path / "run", CrashAt(crash), **plan)
    outcome = training().run(tmp_path / "run", **plan)
    assert_same_run(tmp_path / "run", outcome, directory, expected)


def test_skipped_updates_in_a_row_are_counted_across_a_resume(training, poisoned, tmp_path):
    plan = {
        "dataset": poisoned(training().dataset, range(2, 200)),
        "on_nonfinite": "skip",
        "num_steps": 200,
        "evaluate_every": 200,
        "checkpoint_every": 20,
    }
    with pytest.raises(CrashError):
        training().run(tmp_path / "run", CrashAt(50), **plan)
    with pytest.raises(TrainingError, match=r"step 101: .* after 100 skipped updates in a row"):
        training().run(tmp_path / "run", **plan)


# The checkpoints themselves.


def break_checkpoints(directory: pathlib.Path, *steps: int) -> None:
    for step in steps:
        for file in (directory / "checkpoints" / str(step) / "state" / "d").iterdir():
            file.write_bytes(b"")


def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(
    training, uninterrupted, assert_same_run, tmp_path, caplog
):
    directory = tmp_path / "run"
    with pytest.raises(CrashError):
        training().run(directory, CrashAt(19))
    break_checkpoints(directory, 16)
    outcome = training().run(directory)
    assert "checkpoint 16 is damaged" in caplog.text
    assert outcome.first_step == 14
    assert_same_run(directory, outcome, *uninterrupted("classification"))
    assert (directory / "damaged" / "16").is_dir()


def test_where_every_checkpoint_is_damaged_it_says_so_and_keeps_the_records(
    training, uninterrupted, assert_same_run, tmp_path, caplog
):
    directory = tmp_path / "run"
    with pytest.raises(CrashError):
        training().run(directory, CrashAt(19))
    records = (directory / "metrics.jsonl").read_bytes()
    break_checkpoints(
        directory, *(int(path.name) for path in (directory / "checkpoints").iterdir())
    )
    outcome = training().run(directory)
    assert "no checkpoint is left: beginning anew" in caplog.text
    assert outcome.first_step == 0
    assert_same_run(directory, outcome, *uninterrupted("classification"))
    assert (directory / "damaged" / "metrics.jsonl").read_bytes() == records


def test_a_best_checkpoint_that_is_gone_is_not_claimed(training, tmp_path):
    directory = tmp_path / "run"
    first_is_best = {
        "watched_metric": "age",
        "watched_mode": "min",
        "on_evaluation": lambda step, number, state: {"age": float(step)},
    }
    assert training().run(directory, **first_is_best).best["step"] == 7
    break_checkpoints(directory, 7)
    best = training().run(directory, **first_is_best).best
    assert best["value"] == best["step"] > 7
    assert (directory / "checkpoints" / str(best["step"])).is_dir()


def test_lost_records_are_reported(training, tmp_path, caplog):
    training().run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"")
    training().run(tmp_path / "run")
    assert "metrics.jsonl: all but the first 0 records are lost" in caplog.text


@pytest.mark.parametrize(
    ("regime", "parallelism"),
    [
        ("classification", "fsdp"),
        *(
            pytest.param(regime, parallelism, marks=pytest.mark.slow)
            for regime in ("classification", "language_model")
            for parallelism in ("pmap", "data")
        ),
    ],
)
def test_a_resume_under_another_parallelism_is_said_and_goes_on_there(
    training, uninterrupted, tmp_path, caplog, regime, parallelism
):
    directory = tmp_path / "run"
    with pytest.raises(CrashError):
        training(regime).run(directory, CrashAt(11))
    outcome = training(regime, parallelism).run(directory)
    assert f"made under jit on 1, this is {parallelism} on 8: equal to rounding" in caplog.text
    assert (outcome.first_step, outcome.step) == (8, 20)
    expected, _ = uninterrupted(regime)
    # The part from before the resume is bitwise the same.
    lines = (directory / "metrics.jsonl").read_bytes().splitlines()
    whole = (expected / "metrics.jsonl").read_bytes().splitlines()
    assert len(lines) == len(whole)
    assert lines[:3] == whole[:3]
