"""Trainings in phases: one grows the network, one freezes; interrupted and damaged in each."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from dlcore.errors import UsageError
from dlcore.train import Need, Phase, Run, Session, Settings
from tests import small
from tests.guests.harness import (
    CrashError,
    after_steps,
    assert_same_arrays,
    assert_same_run,
    crash,
    terminate,
)

# Three steps an epoch: the phases end at the steps 6, 9 and 12.
RECIPE = small.recipe(
    data_options={"validation_fraction": 0.65},
    log_every=2,
    phases=(
        Phase("trunk", {"num_epochs": 2}),
        Phase(
            "grown",
            {
                "model_options": {"hidden": (4, 5)},
                "start_mapping": "hidden1/.*<- logits/.*<- <-logits/.*",
                "groups": "hidden0/.*:frozen",
                "num_epochs": 1,
            },
        ),
        Phase(
            "tuned",
            {
                "model_options": {"hidden": (4, 5)},
                "groups": "logits/.*:frozen",
                "optimizer": "adam",
                "learning_rate": 0.01,
                "num_epochs": 1,
            },
        ),
    ),
)
TRUNK, GROWN, TUNED = "phases/trunk/checkpoints", "phases/grown/checkpoints", "checkpoints"


@pytest.fixture(scope="module")
def session():
    """The training; a checkpoint comes every two steps of a phase, beside that at its end."""
    return Session(RECIPE, Settings(checkpoint_every=2))


@pytest.fixture(scope="module")
def whole(session, tmp_path_factory):
    """The run that was never interrupted: look, do not touch."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    summary = session.run(directory)
    assert (summary["status"], summary["step"]) == ("complete", 12)
    return Run(directory)


def test_what_each_phase_learned_from_lies_beside_its_checkpoints(whole):
    records = {
        str(path.relative_to(whole.directory)) for path in whole.directory.rglob("data.json")
    }
    assert records == {"data.json", "phases/trunk/data.json", "phases/grown/data.json"}


def interrupted(session, directory, *counts):
    """Trains and crashes after so many steps, again and again."""
    for count in counts:
        with after_steps(count, crash), pytest.raises(CrashError):
            session.run(directory)


def saved(directory: pathlib.Path, folder: str) -> list[int]:
    return sorted(int(path.name) for path in (directory / folder).glob("[0-9]*"))


def break_checkpoints(directory: pathlib.Path, folder: str, *steps: int) -> None:
    for step in steps:
        (directory / folder / str(step) / "state" / "_METADATA").write_bytes(b"")


# What phases are.


def params(session, run, phase):
    return session.trained(run.directory, "newest", phase).variables["params"]


def test_a_phase_starts_from_the_best_of_the_one_before_it(session, whole):
    best = session.trained(whole.directory, "best", "trunk").variables["params"]
    grown = params(session, whole, "grown")
    assert grown.keys() == {"hidden0", "hidden1", "logits"}
    # It was frozen there.
    assert_same_arrays(grown["hidden0"], best["hidden0"])


def test_what_a_phase_freezes_stays_and_all_else_is_trained(session, whole):
    before = session.trained(whole.directory, "best", "grown").variables["params"]
    after = params(session, whole, "tuned")
    assert_same_arrays(after["logits"], before["logits"])
    for layer in ("hidden0", "hidden1"):
        moved = jax.tree.map(lambda one, two: (one != two).any(), after[layer], before[layer])
        assert all(jax.tree.leaves(moved)), layer


def test_steps_epochs_and_records_go_on_from_phase_to_phase(whole):
    train, validation = (whole.metrics[split] for split in ("train", "validation"))
    # A record comes every two steps, and at the end of a phase.
    assert train["step"].tolist() == [2, 4, 6, 8, 9, 10, 12]
    assert validation["step"].tolist() == [3, 6, 9, 12]
    for columns in (train, validation):
        np.testing.assert_allclose(columns["epoch"], columns["step"] / 3, atol=1e-4)
    steps = [record["step"] for record in whole.records]
    assert steps == sorted(steps)


def test_every_phase_keeps_checkpoints_of_its_own_and_the_last_ones_are_the_run_s(session, whole):
    assert saved(whole.directory, TRUNK)[-1] == 6
    assert saved(whole.directory, GROWN) == [8, 9]
    assert saved(whole.directory, TUNED) == [11, 12]
    size = whole.summary["parameters"]
    assert size == sum(leaf.size for leaf in jax.tree.leaves(params(session, whole, "tuned")))
    assert whole.trained("newest").learner.model.hidden == (4, 5)
    assert whole.trained("newest", "trunk").learner.model.hidden == (4,)
    with pytest.raises(UsageError, match="phase=trunks: the recipe has trunk, grown, tuned"):
        whole.trained("newest", "trunks")


# Interruptions.


# Inside a phase, and at the last step of one.
IN_SHORT = (4, 9)


@pytest.mark.parametrize(
    "step",
    [
        *IN_SHORT,
        *(
            pytest.param(step, marks=pytest.mark.slow)
            for step in range(1, 13)
            if step not in IN_SHORT
        ),
    ],
)
def test_crashed_at_this_step_it_ends_as_if_it_had_not(session, whole, tmp_path, step):
    interrupted(session, tmp_path / "run", step)
    assert session.run(tmp_path / "run")["resumed"] == (step > 2)
    assert_same_run(session, tmp_path / "run", whole)
    for folder in (TRUNK, GROWN):
        assert saved(tmp_path / "run", folder) == saved(whole.directory, folder)


def test_stopped_in_every_phase_it_ends_as_if_it_had_not(session, whole, tmp_path):
    for count, step in ((5, 5), (3, 8), (2, 10)):
        with after_steps(count, terminate):
            stopped = session.run(tmp_path / "run")
        assert stopped == {"status": "stopped", "reason": f"SIGTERM at step {step}"}
    assert session.run(tmp_path / "run")["resumed"]
    assert_same_run(session, tmp_path / "run", whole)


def test_another_process_goes_on_where_this_one_was(session, whole, tmp_path):
    interrupted(session, tmp_path / "run", 9)
    another = Session(RECIPE, Settings(checkpoint_every=2))
    # Steps 9 to 12, and not one before.
    with after_steps(5, crash):
        another.run(tmp_path / "run")
    assert_same_run(another, tmp_path / "run", whole)


# Damage.


def test_a_damaged_checkpoint_at_the_beginning_of_a_phase_costs_its_steps(
    session, whole, tmp_path, caplog
):
    interrupted(session, tmp_path / "run", 9)
    assert saved(tmp_path / "run", GROWN) == [8]
    break_checkpoints(tmp_path / "run", GROWN, 8)
    assert session.run(tmp_path / "run")["resumed"]
    assert "checkpoint 8 is damaged" in caplog.text
    assert_same_run(session, tmp_path / "run", whole)
    assert (tmp_path / "run" / "phases" / "grown" / "damaged" / "8").is_dir()


def test_where_the_end_of_the_phase_before_is_damaged_too_that_is_trained_again(
    session, whole, tmp_path
):
    interrupted(session, tmp_path / "run", 9)
    break_checkpoints(tmp_path / "run", GROWN, 8)
    break_checkpoints(tmp_path / "run", TRUNK, 6)
    assert session.run(tmp_path / "run")["resumed"]
    assert_same_run(session, tmp_path / "run", whole)


def test_a_phase_under_way_needs_nothing_of_the_one_before(session, whole, tmp_path):
    interrupted(session, tmp_path / "run", 9)
    break_checkpoints(tmp_path / "run", TRUNK, *saved(tmp_path / "run", TRUNK))
    assert session.run(tmp_path / "run")["resumed"]
    assert_same_run(session, tmp_path / "run", whole)


def test_where_everything_is_damaged_it_begins_anew(session, whole, tmp_path):
    interrupted(session, tmp_path / "run", 11)
    for folder in (TRUNK, GROWN):
        break_checkpoints(tmp_path / "run", folder, *saved(tmp_path / "run", folder))
    assert not session.run(tmp_path / "run")["resumed"]
    assert_same_run(session, tmp_path / "run", whole)


# Patience.


@pytest.fixture(scope="module")
def impatient():
    """The first phase learns nothing, and is over at its second evaluation, at step 6."""
    trunk = Phase("trunk", {"num_epochs": 5, "patience": 1, "learning_rate": 1e-12})
    grown = Phase("grown", {**RECIPE.phases[1].overrides, "patience": 1, "num_epochs": 2})
    return Session(dataclasses.replace(RECIPE, phases=(trunk, grown)))


@pytest.fixture(scope="module")
def ended_early(impatient, tmp_path_factory):
    directory = tmp_path_factory.mktemp("impatient") / "run"
    impatient.run(directory)
    return Run(directory)


def test_a_phase_that_patience_ends_is_followed_by_the_next(ended_early):
    evaluated = ended_early.metrics["validation"]["step"].tolist()
    # Patience begins anew: of the second phase the first evaluation is the best so far.
    assert evaluated[:3] == [3, 6, 9]
    assert ended_early.summary["step"] == evaluated[-1] == 12


@pytest.mark.parametrize("step", [5, 7, 10])
def test_interrupted_before_or_behind_that_end_it_stops_there_too(
    impatient, ended_early, tmp_path, step
):
    interrupted(impatient, tmp_path / "run", step)
    impatient.run(tmp_path / "run")
    assert_same_run(impatient, tmp_path / "run", ended_early)


# What is refused before any work.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"phases": (Phase("one", {}), Phase("one", {}))},
            "recipe 'small' has two phases of one name: one, one",
        ),
        (
            {"phases": (Phase("one", {"seed": 3}),)},
            "phase 'one' cannot have 'seed' of its own: it is the whole run's",
        ),
        (
            {"phases": (Phase("one", {"flux": 3}),)},
            "phase 'one' cannot have 'flux' of its own: a recipe has no such field",
        ),
        ({"phases": (Phase("one/two", {}),)}, "has a part called 'one/two', which names a folder"),
        (
            {"phases": (Phase("one", {}),), "needs": {"one": Need(small.recipe())}},
            "needs a run called 'one': a phase has that name",
        ),
        ({"needs": {"plots": Need(small.recipe())}}, "needs a run called 'plots': a phase has"),
        (
            {"phases": (Phase("one", {}), Phase("two", {"batch_size": -1}))},
            "phase.two: batch_size=-1: it must be at least 0",
        ),
        (
            {"phases": (Phase("one", {}), Phase("two", {"model_options": {"hidden": (4, 5)}}))},
            "phase.two: start_from: the weights do not fit the model; ",
        ),
        (
            {"phases": (Phase("one", {"start_from": "two"}), Phase("two", {}))},
            "phase.one: start_from=two: there is no such directory",
        ),
    ],
)
def test_phases_that_cannot_be_are_refused_in_one_line_and_leave_nothing(
    changes, message, tmp_path
):
    with pytest.raises(UsageError) as error:
        Session(small.recipe(**changes)).run(tmp_path / "run")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["pmap", "data", "fsdp"])
def test_four_devices_train_the_phases_that_one_does(whole, tmp_path, layout):
    four = Session(RECIPE, Settings(parallelism=layout), jax.devices()[:4])
    four.run(tmp_path / "run")
    one, other = (run.metrics["train"]["loss"] for run in (whole, Run(tmp_path / "run")))
    np.testing.assert_allclose(other, one, rtol=1e-4)
