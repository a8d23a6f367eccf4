"""Runs that a recipe needs: trained first, resumed, and left alone when they are complete."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from dlcore import evaluators
from dlcore.errors import UsageError
from dlcore.evaluators import Findings
from dlcore.train import Need, Run, Session, Settings
from tests import small
from tests.guests.harness import (
    CrashError,
    after_steps,
    assert_same_arrays,
    assert_same_run,
    crash,
    terminate,
)


@dataclasses.dataclass(frozen=True)
class Compared(evaluators.Evaluator):
    """How often the run and its judge agree."""

    needed: ClassVar = ("judge",)
    seen: ClassVar = []

    def evaluate(self, trained, split, key):
        judge = trained.needed["judge"]
        self.seen.append(judge)
        own, other = (each.rows(each.learner.predict, split).argmax(1) for each in (trained, judge))
        return Findings(scalars={"agreement": float((own == other).mean())})


evaluators.register("needs_compared", Compared)
# The judge takes three steps, then the run itself takes six.
JUDGE = small.recipe(name="judge", num_epochs=1, data_options={"normalize": "none"})
RECIPE = small.recipe(
    needs={"judge": Need(dataclasses.replace(JUDGE, data="iris"), same_data=True)},
    data_options={"validation_fraction": 0.65},
    evaluators=f"{small.NO_FIGURES} needs_compared:every=1",
    log_every=3,
)


@pytest.fixture(scope="module")
def session():
    return Session(RECIPE, Settings(checkpoint_every=2))


@pytest.fixture(scope="module")
def whole(session, tmp_path_factory):
    """The run that was never interrupted: look, do not touch."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    Compared.seen.clear()
    session.run(directory)
    return Run(directory)


def times(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.name != ".lock"}


def test_a_needed_run_is_trained_in_a_folder_of_its_own(whole):
    judge = Run(whole.directory / "judge")
    assert judge.summary["status"] == "complete"
    assert judge.summary["step"] == 3
    assert judge.recipe.name == "judge"
    records = {
        str(path.relative_to(whole.directory)) for path in whole.directory.rglob("data.json")
    }
    assert records == {"data.json", "judge/data.json"}


def test_it_learns_from_the_data_and_the_splits_of_the_recipe_that_needs_it(whole):
    judge = Run(whole.directory / "judge").recipe
    assert judge.data == whole.recipe.data == "small_blobs"
    assert judge.data_options["validation_fraction"] == 0.65
    assert judge.data_options["normalize"] == "none"


def test_evaluators_get_it_trained_and_restored_once(whole):
    best = Run(whole.directory / "judge").trained("best").variables
    assert len(Compared.seen) == 3
    assert len({id(judge) for judge in Compared.seen}) == 1
    assert_same_arrays(Compared.seen[0].variables, best)
    agreements = whole.metrics["validation"]["agreement"]
    assert ((agreements >= 0) & (agreements <= 1)).all()
    assert "agreement" in whole.summary["test"]


def test_interrupted_in_either_training_both_end_as_if_they_had_not(session, whole, tmp_path):
    directory = tmp_path / "run"
    with after_steps(3, crash), pytest.raises(CrashError):
        session.run(directory)
    assert not (directory / "judge" / "summary.json").exists()
    # One step ends the judge's training, three more are the run's own.
    with after_steps(4, crash), pytest.raises(CrashError):
        session.run(directory)
    assert Run(directory / "judge").summary["resumed"]
    judge = times(directory / "judge")
    assert session.run(directory)["resumed"]
    assert times(directory / "judge") == judge
    assert_same_run(session, directory, whole)
    needed = session.needed["judge"]
    assert_same_run(needed, directory / "judge", Run(whole.directory / "judge"))


def test_stopped_in_the_needed_training_it_says_so_and_goes_on_there(session, whole, tmp_path):
    with after_steps(2, terminate):
        summary = session.run(tmp_path / "run")
    assert summary == {"status": "stopped", "reason": "while 'judge' was trained"}
    session.run(tmp_path / "run")
    assert_same_run(session, tmp_path / "run", whole)


def test_a_complete_run_needs_no_step_of_the_needed_one(session, whole):
    before = times(whole.directory)
    with after_steps(1, crash):
        assert session.run(whole.directory) == whole.summary
    assert times(whole.directory) == before


def test_a_run_that_is_opened_again_has_what_it_needed(whole):
    trained = Run(whole.directory).trained()
    assert_same_arrays(
        trained.needed["judge"].variables, Run(whole.directory / "judge").trained().variables
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"needs": {}},
            "'needs_compared' needs a trained judge: name its recipe (needs.judge), or",
        ),
        (
            {"needs": {"judge": Need(dataclasses.replace(JUDGE, model="mlpp"))}},
            "needs.judge: unknown model 'mlpp'",
        ),
        (
            {"needs": {"judge": Need(dataclasses.replace(JUDGE, learning_rate=-1.0))}},
            "needs.judge: ",
        ),
    ],
)
def test_what_is_needed_and_cannot_be_had_is_refused_before_any_work(changes, message, tmp_path):
    with pytest.raises(UsageError) as error:
        Session(dataclasses.replace(RECIPE, **changes)).run(tmp_path / "run")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_another_judge_has_no_place_in_the_directory(whole):
    judge = dataclasses.replace(JUDGE, learning_rate=0.3)
    other = dataclasses.replace(RECIPE, needs={"judge": Need(judge, same_data=True)})
    with pytest.raises(UsageError, match="needs.judge.data=iris, this one has needs.judge.data="):
        Session(other).run(whole.directory)
    assert np.isfinite(whole.summary["test"]["agreement"])
