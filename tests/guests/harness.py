"""What every guest has to show: a recipe from outside the library, in a file of its own.

A test file defines models, a learner, evaluators and the recipe that names them, all from public
names, and a class `TestGuest` that inherits the tests of `Guest` or, where a process of its own is
also killed, of `KilledGuest`.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import numpy as np
import pytest

from dlcore.train import Recipe, Run, Session, Settings
from dlcore.train.callbacks import ProgressBar
from dlcore.train.session import restore
from tests.children import running


class CrashError(Exception):
    """Ends a training in the middle of an epoch."""


class Guest:
    """The tests that every guest passes; the recipe is the test file's `recipe`.

    Attributes:
      stop_after: the interrupted training is asked to stop after so many steps, and saves.
      crash_after: taken up there, it fails after so many steps in all, and does not save.
      compared_after: one and four devices are compared after so many steps, in the last phase.
      figures: names of the figures that the run leaves.
      arrays: names of the arrays that it leaves.
      amplifies_rounding: its parameters on four devices are not those on one, as Adam divides small
        gradients by their own size, or an attack asks for their signs. Then losses are compared.
    """

    stop_after: ClassVar[int]
    crash_after: ClassVar[int]
    compared_after: ClassVar[int]
    figures: ClassVar[tuple[str, ...]] = ()
    arrays: ClassVar[tuple[str, ...]] = ()
    amplifies_rounding: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    @classmethod
    def recipe(cls, request: pytest.FixtureRequest) -> Recipe:
        """What is trained."""
        return request.module.recipe

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, recipe: Recipe) -> Session:
        """The training on one device, compiled once for all tests."""
        return Session(recipe)

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, session: Session, tmp_path_factory: pytest.TempPathFactory) -> Run:
        """The training that was never interrupted: look, do not touch."""
        directory = tmp_path_factory.mktemp("guest") / "whole"
        summary = session.run(directory)
        assert summary["status"] == "complete"
        assert not summary["resumed"]
        return Run(directory)

    def test_it_leaves_its_findings(self, run: Run):
        for name in (*self.figures, "learning_curves"):
            assert (run.directory / "plots" / f"{name}.png").stat().st_size > 1000
        for name in self.arrays:
            assert run.arrays(name)

    @pytest.mark.slow
    def test_interrupted_in_mid_epoch_it_ends_bitwise_equal(
        self, session: Session, run: Run, tmp_path: pathlib.Path
    ):
        stop(session, tmp_path, self.stop_after)
        with after_steps(self.crash_after - self.stop_after, crash), pytest.raises(CrashError):
            session.run(tmp_path)
        assert session.run(tmp_path)["resumed"]
        assert_same_run(session, tmp_path, run)

    @pytest.mark.slow
    def test_four_devices_train_and_find_what_one_does(
        self, recipe: Recipe, session: Session, tmp_path: pathlib.Path
    ):
        four = Session(recipe, Settings(parallelism="data"), jax.devices()[:4])
        stop(session, tmp_path / "one", self.compared_after)
        stop(four, tmp_path / "four", self.compared_after)
        expected, trained = (
            each.trained(tmp_path / name, "newest")
            for each, name in ((session, "one"), (four, "four"))
        )
        if self.amplifies_rounding:
            losses, others = (Run(tmp_path / name).metrics for name in ("one", "four"))
            assert losses.keys() == others.keys() >= {"train"}
            for split, columns in losses.items():
                np.testing.assert_allclose(others[split]["loss"], columns["loss"], rtol=1e-4)
        else:
            assert_close(trained.variables, expected.variables, 1e-5)
        for name, evaluator in session.prepared.evaluators.items():
            found, other = (
                evaluator.evaluate(each, "validation", jax.random.key(0))
                for each in (expected, trained)
            )
            assert found.figures.keys() == other.figures.keys(), name
            assert found.texts == other.texts
            assert other.scalars == pytest.approx(found.scalars, rel=1e-3)
            close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
            jax.tree.map(close, dict(other.arrays), dict(found.arrays))


class KilledGuest(Guest):
    """A guest that also trains by the launcher, in a process that is killed."""

    @pytest.mark.slow
    def test_killed_in_a_process_of_its_own_it_ends_bitwise_equal(
        self, session: Session, run: Run, tmp_path: pathlib.Path, request: pytest.FixtureRequest
    ):
        directory = tmp_path / "killed"
        name = f"--recipe={request.module.__name__}:recipe"
        command = ("-m", "experiments.train", name, f"--workdir={directory}")
        with running(tmp_path, command, devices=jax.device_count()) as (child,):
            child.wait_until(lambda: has_checkpoint(directory / "checkpoints"))
            child.send(signal.SIGKILL)
            assert child.exit_code() == -signal.SIGKILL
        assert not (directory / "summary.json").exists()
        assert session.run(directory)["resumed"]
        assert_same_run(session, directory, run)


@contextlib.contextmanager
def after_steps(count: int, act: Callable[[], None]) -> Iterator[None]:
    """Inside, a training acts when so many steps, those of needed runs too, are under way."""
    on_step, seen = ProgressBar.on_step, itertools.count(1)

    def counting(bar: ProgressBar, step: int) -> None:
        on_step(bar, step)
        if next(seen) == count:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProgressBar, "on_step", counting)
        yield


def crash() -> None:
    """Fails."""
    raise CrashError


def terminate() -> None:
    """Asks this process to stop, as a scheduler would."""
    os.kill(os.getpid(), signal.SIGTERM)


def stop(session: Session, directory: pathlib.Path, steps: int) -> None:
    """Trains for so many steps; the last is saved."""
    with after_steps(steps, terminate):
        summary = session.run(directory)
    assert summary["status"] == "stopped"


def has_checkpoint(folder: pathlib.Path) -> bool:
    """Whether anything has been saved there."""
    return any(path.name.isdecimal() for path in folder.glob("*"))


def assert_same_run(session: Session, directory: pathlib.Path, run: Run) -> None:
    """Every array of the newest checkpoint, and all records and findings, are equal bit by bit."""
    lines = (directory / "metrics.jsonl").read_bytes()
    assert lines == (run.directory / "metrics.jsonl").read_bytes()
    one, two = (restore(session.prepared, d, "newest") for d in (directory, run.directory))
    assert one.step == two.step
    assert_same_arrays(one.state, two.state)
    again = Run(directory)
    for path in run.directory.glob("*.npz"):
        assert_same_arrays(again.arrays(path.stem), run.arrays(path.stem))
    timed = ("seconds", "report_seconds", "resumed", "date", "commit")
    one, two = (
        {name: value for name, value in each.summary.items() if name not in timed}
        for each in (again, run)
    )
    assert one == two


def assert_same_arrays(one: Any, two: Any) -> None:
    """Two trees of arrays are equal to the last bit."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    arrays = jax.tree.leaves_with_path(jax.device_get(one))
    for (path, array), other in zip(arrays, jax.tree.leaves(jax.device_get(two)), strict=True):
        assert array.tobytes() == other.tobytes(), jax.tree_util.keystr(path)


def assert_close(one: Any, two: Any, tolerance: float) -> None:
    """Two trees of arrays differ by no more than a share of each array's norm."""
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves(two), strict=True)
    for (path, array), other in pairs:
        array, other = np.float64(array), np.float64(other)
        difference, size = np.linalg.norm(array - other), np.linalg.norm(other)
        assert difference <= tolerance * size, (jax.tree_util.keystr(path), difference / size)
