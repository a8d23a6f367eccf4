"""A training from a recipe to its summary: needed runs, phases, evaluators.

    from dlcore.train import Session

    summary = Session(recipe).run("runs/digits")

The same call resumes a run that was interrupted, and returns the summary of one that is complete.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from dlcore import data, parallel, processes
from dlcore.errors import NotFiniteError, TrainingError, UsageError, about
from dlcore.evaluators import Trained
from dlcore.tasks import Learner, TrainState
from dlcore.train import (
    checkpoint,
    checks,
    data_record,
    evaluation,
    findings,
    fit,
    report,
    start_from,
    workdir,
)
from dlcore.train.callbacks import (
    Callback,
    EarlyStopping,
    LossTarget,
    Plateau,
    Profiler,
    ProgressBar,
)
from dlcore.train.checkpoint import Checkpoints
from dlcore.train.data_record import PhaseData
from dlcore.train.loop import Loop, Outcome, Start
from dlcore.train.preparation import OVERFIT_LOSS, Prepared, prepare
from dlcore.train.recipe import Recipe
from dlcore.train.settings import Settings
from dlcore.train.writers import columns, read_records

_log = logging.getLogger(__name__)


class Session:
    """A recipe on this machine.

    Args:
      recipe: what is trained.
      settings: how, on this machine.
      devices: to train on; those present by default.
      recorded: a run directory, where new inputs are all that the trained model will see: its data
        are not opened, if what was recorded of them says enough.

    Raises:
      UsageError: a module or a phase of the recipe is wrong.
    """

    def __init__(
        self,
        recipe: Recipe,
        settings: Settings | None = None,
        devices: parallel.Devices | None = None,
        recorded: pathlib.Path | None = None,
    ) -> None:
        recipe.import_modules()
        checks.phases(recipe)
        self.settings, self._devices = settings or Settings(), devices
        # A recorded recipe names its places in full, which may be closed to who asks for answers.
        self._recipe = recipe if recorded else data_record.located(recipe, self.settings)
        self._recorded = recorded
        self._data = [
            PhaseData(one, self.settings, pathlib.PurePath(self._folder(index)).parent, recorded)
            for index, one in enumerate(self._recipe.by_phase())
        ]
        self._restored: dict[pathlib.Path, dict[str, Trained]] = {}

    @functools.cached_property
    def phases(self) -> tuple[Prepared, ...]:
        """Each phase, ready; of a recipe without phases the whole.

        Raises:
          UsageError: something in the recipe, the settings or the data is wrong.
        """
        earlier = len(self._recipe.by_phase()) - 1
        return (*map(self._prepare, range(earlier)), self.prepared)

    @functools.cached_property
    def prepared(self) -> Prepared:
        """The last phase, ready: what a trained model is.

        Raises:
          UsageError: something in the recipe, the settings or the data is wrong.
        """
        return self._prepare(-1)

    def _prepare(self, index: int) -> Prepared:
        with self._about_phase(index):
            recipe = self._recipe.by_phase()[index]
            return prepare(recipe, self.settings, self._devices, lambda: self._data[index].dataset)

    def _about_phase(self, index: int) -> contextlib.AbstractContextManager[None]:
        phases = self._recipe.phases
        return about(f"phase.{phases[index].name}") if phases else contextlib.nullcontext()

    @property
    def recipe(self) -> Recipe:
        """What `recipe.json` holds: with what the dataset settles, where there are no phases."""
        return self._recipe if self._recipe.phases else self.prepared.recipe

    @functools.cached_property
    def needed(self) -> Mapping[str, "Session"]:
        """The runs that are trained first."""
        sessions = {}
        for name, need in self._recipe.needs.items():
            recipe = need.recipe
            if need.same_data:
                recipe = recipe.with_data_of(self._recipe)
            recorded = self._recorded and self._recorded / name
            sessions[name] = Session(recipe, self.settings, self._devices, recorded)
        return sessions

    def check(self, directory: str | pathlib.Path | None = None) -> None:
        """Raises UsageError where anything is wrong, before any work starts.

        Args:
          directory: of the run, if there is one: where a training has begun, the weights that it
            started from are no longer needed.
        """
        place = workdir.named(directory) if directory else None
        if place:
            workdir.check_apart(place, self._recipe, self.settings)
        for name, session in self.needed.items():
            with about(f"needs.{name}"):
                session.check(place and place / name)
        for evaluator in self.prepared.evaluators.values():
            for role in evaluator.needed:
                serving = self.needed[role].prepared
                evaluator.check_needed(role, serving.learner, serving.dataset)
        for index, prepared in enumerate(self.phases):
            with self._about_phase(index):
                fit.check(prepared)
            if not (place and self._has_begun(place, index)):
                with self._about_phase(index):
                    self._check_start(index)

    def run(self, directory: str | pathlib.Path) -> dict[str, Any]:
        """Trains in a run directory, or takes up what is there.

        Args:
          directory: new, or of the same recipe.

        Returns:
          The summary; its "status" is "complete", or "stopped" where the training was asked to stop
          and saved, with the "reason".

        Raises:
          UsageError: the recipe, the settings, the data or the directory is wrong.
          TrainingError: the training cannot go on.
        """
        directory = workdir.to_write(directory)
        self.check(directory)
        recipe = data_record.named_as_there(self.recipe, directory)
        with workdir.claim(directory, recipe, self._data):
            if summary := self._summary(directory):
                return self._judged(summary)
            for name, session in self.needed.items():
                if session.run(directory / name)["status"] == "stopped":
                    return {"status": "stopped", "reason": f"while {name!r} was trained"}
            outcome = self._train(directory)
            if outcome.status == "stopped":
                return {"status": "stopped", "reason": outcome.reason}
            summary = self._finish(directory, outcome)
        processes.at("the end")
        return self._judged(summary)

    def _summary(self, directory: pathlib.Path) -> dict[str, Any] | None:
        """The summary of a run that is complete; None where it is yet to be written, or again."""
        path = directory / "summary.json"
        if not processes.first_says(path.exists()):
            return None
        if path.is_dir():
            raise UsageError(f"{path} is a directory: a file of that name is to be written there")
        try:
            return report.read_summary(path)
        except UsageError as error:
            _log.warning("%s: it is made anew", error)
            return None

    def trained(self, directory: pathlib.Path, which: str = "best", phase: str = "") -> Trained:
        """The trained model of a run directory.

        Args:
          directory: where this recipe was trained.
          which: "best", "newest" or the number of a step.
          phase: at the end of which it is wanted; of the last by default.

        Raises:
          UsageError: there is no such phase or checkpoint, it is damaged or of another model, or
            the data are no longer those that it was trained on.
        """
        index = self._index(phase) if phase else -1
        self._data[index].check(directory)
        prepared = self.phases[index] if phase else self.prepared
        restored = restore(prepared, directory, which, self._folder(index))
        placed = prepared.program.parallelism.place_state(restored.state)
        return self._trained(directory, prepared, restored.state, placed)

    def _index(self, phase: str) -> int:
        names = [each.name for each in self._recipe.phases]
        if phase not in names:
            raise UsageError(f"phase={phase}: the recipe has {', '.join(names) or 'no phases'}")
        return names.index(phase)

    def evaluate(self, directory: pathlib.Path, split: str, which: str = "best") -> dict[str, Any]:
        """The "step" of a checkpoint and every metric of it on a split; see `trained`.

        Raises:
          UsageError: there is no such split or checkpoint, or the data are no longer those that the
            model was trained on.
        """
        self._data[-1].check(directory)
        batches = split_batches(self.prepared, split)
        restored = restore(self.prepared, directory, which)
        placed = self.prepared.program.parallelism.place_state(restored.state)
        values = evaluation.evaluate(self.prepared.program, placed, batches)
        return {"step": restored.step, **values}

    def dataset(self, directory: pathlib.Path) -> data.Dataset:
        """What the run of a directory learned from.

        Raises:
          UsageError: the data are no longer those.
        """
        self._data[-1].check(directory)
        return self.prepared.dataset

    def _trained(
        self, directory: pathlib.Path, prepared: Prepared, canonical: Any, placed: Any
    ) -> Trained:
        def rows(function: Any, split: str, *inputs: Any) -> Any:
            compiled = prepared.program.rows(function, *inputs)
            batches = split_batches(prepared, split)
            return evaluation.evaluate(prepared.program, placed, batches, compiled=compiled)["rows"]

        variables = canonical.variables()
        if jax.process_count() > 1:
            variables = multihost_utils.process_allgather(variables, tiled=True)
        return Trained(
            learner=prepared.learner,
            variables=variables,
            dataset=prepared.dataset,
            batch_size=prepared.recipe.batch_size,
            rows=rows,
            metrics=columns(read_records(directory / "metrics.jsonl")),
            needed=self._trained_needs(directory),
        )

    def _trained_needs(self, directory: pathlib.Path) -> dict[str, Trained]:
        """The needed runs, restored once for all evaluations of this one."""
        if directory not in self._restored:
            self._restored[directory] = {
                name: session.trained(directory / name) for name, session in self.needed.items()
            }
        return self._restored[directory]

    def _train(self, directory: pathlib.Path) -> Outcome:
        """Trains the phases one after another, from the one that is under way."""
        processes.at("the restoring of the newest checkpoint")
        active, start = self._under_way(directory)
        resumed = active > 0
        for index in range(active, len(self.phases)):
            prepared = self.phases[index]
            outcome = Loop(
                prepared.program,
                prepared.dataset,
                prepared.plan,
                directory,
                seed=prepared.recipe.seed,
                callbacks=self._callbacks(prepared, directory, start.step),
                start=start,
                make_state=functools.partial(self._first_state, directory, index),
                checkpoints=self._folder(index),
                on_evaluation=functools.partial(self._on_evaluation, directory, prepared),
            ).run()
            resumed |= outcome.resumed
            if outcome.status == "stopped":
                break
            start = Start(
                outcome.step, outcome.epoch, outcome.position, outcome.seconds, outcome.skipped
            )
        return dataclasses.replace(outcome, resumed=resumed)

    def _under_way(self, directory: pathlib.Path) -> tuple[int, Start]:
        """The last phase that has a sound checkpoint, and where it began; or the first one."""
        for index in range(len(self.phases) - 1, 0, -1):
            if not self._has_checkpoints(directory, index):
                continue
            folder = directory / self._folder(index)
            with contextlib.closing(_open(self.phases[index].learner, folder)) as checkpoints:
                if steps := checkpoints.steps():
                    return index, Start(**checkpoints.progress(steps[-1])["start"])
        return 0, Start()

    def _has_begun(self, directory: pathlib.Path, index: int) -> bool:
        """Whether a phase has checkpoints, or a later one."""
        return any(
            self._has_checkpoints(directory, later) for later in range(index, len(self.phases))
        )

    def _has_checkpoints(self, directory: pathlib.Path, index: int) -> bool:
        """Whether a phase has any, sound or not."""
        folder = directory / self._folder(index)
        return any(path.name.isdecimal() for path in folder.glob("*"))

    def _folder(self, index: int) -> str:
        """Where a phase's checkpoints are in the run directory: the last phase's are the run's."""
        if index in (-1, max(len(self._recipe.phases) - 1, 0)):
            return checkpoint.FOLDER
        return f"phases/{self._recipe.phases[index].name}/{checkpoint.FOLDER}"

    def _first_state(self, directory: pathlib.Path, index: int) -> TrainState:
        prepared, source = self.phases[index], self._source(index)
        recipe = prepared.recipe
        if not recipe.start_from:
            return prepared.program.initialize()
        if source:
            found = start_from.saved(source[0].learner, directory / source[1])
        else:
            found = start_from.read(recipe.start_from)
        return prepared.program.initialize(*start_from.mapped(prepared, found))

    def _check_start(self, index: int) -> None:
        prepared, source = self.phases[index], self._source(index)
        recipe = prepared.recipe
        if recipe.start_from:
            found = start_from.abstract(source[0]) if source else start_from.read(recipe.start_from)
            prepared.program.check_source(*start_from.mapped(prepared, found))

    def _source(self, index: int) -> tuple[Prepared, str] | None:
        """What a phase starts from, and where its checkpoints are in the run directory.

        None where that is no part of this run: a file, another run or nothing.
        """
        name = self.phases[index].recipe.start_from
        earlier = [phase.name for phase in self._recipe.phases[:index]]
        if name in earlier:
            return self.phases[earlier.index(name)], self._folder(earlier.index(name))
        if name in self.needed:
            return self.needed[name].prepared, f"{name}/{checkpoint.FOLDER}"
        return None

    def _on_evaluation(
        self, directory: pathlib.Path, prepared: Prepared, step: int, number: int, state: Any
    ) -> dict[str, float]:
        due = {
            name: one
            for name, one in prepared.evaluators.items()
            if one.every and number % one.every == 0
        }
        if not due:
            return {}
        canonical = prepared.program.parallelism.canonical_state(state)
        trained = self._trained(directory, prepared, canonical, state)
        place = directory / "evaluations" / f"step_{step}"
        found = findings.collect(due, trained, "validation", prepared.recipe.seed)
        findings.write(found, place)
        return dict(found.scalars)

    def _callbacks(
        self, prepared: Prepared, directory: pathlib.Path, first_step: int
    ) -> list[Callback]:
        """Who listens to a phase that begins after a step."""
        chosen: list[Callback] = []
        recipe, plan = prepared.recipe, prepared.plan
        if jax.process_index() == 0:
            chosen.append(ProgressBar())
        if plan.watched_metric and not recipe.overfit:
            watched: dict[str, Any] = {
                "metric": plan.watched_metric,
                "mode": plan.watched_mode,
                "first_step": first_step + plan.watched_after,
            }
            if recipe.schedule == "plateau":
                patience = recipe.plateau_patience
                chosen.append(Plateau(recipe.decay_factor, patience=patience, **watched))
            if recipe.patience:
                chosen.append(EarlyStopping(patience=recipe.patience, **watched))
        if recipe.overfit:
            chosen.append(LossTarget(OVERFIT_LOSS))
        if self.settings.profile:
            chosen.append(Profiler(directory / "profile"))
        return chosen

    def _finish(self, directory: pathlib.Path, outcome: Outcome) -> dict[str, Any]:
        """Tests the best checkpoint, calls the evaluators and writes the summary."""
        started = time.perf_counter()
        processes.at("the final evaluation")
        prepared = self.prepared
        restored = restore(prepared, directory)
        placed = prepared.program.parallelism.place_state(restored.state)
        splits = [split for split in ("validation", "test") if split in prepared.dataset.splits]
        results = {
            split: report.scalars(
                evaluation.evaluate(prepared.program, placed, split_batches(prepared, split))
            )
            for split in splits
        }
        trained = self._trained(directory, prepared, restored.state, placed)
        split = ["train", *splits][-1]
        processes.at("the evaluators")
        found = findings.collect(prepared.evaluators, trained, split, prepared.recipe.seed)
        results[split] = findings.beside(results.get(split, {}), found.scalars)
        processes.at("the report")
        summary = report.summarize(prepared, outcome, results)
        summary["report_seconds"] = round(time.perf_counter() - started, 1)
        # Whatever of this fails is left out. The summary comes last: where it is, all is there.
        findings.write(found, directory)
        if jax.process_index() == 0:
            workdir.write_json(directory / "summary.json", summary)
        return summary

    def _judged(self, summary: dict[str, Any]) -> dict[str, Any]:
        """The summary, unless it says that nothing was learned, or a few examples not by heart."""
        for split in ("train", "validation", "test"):
            if summary.get(split, {}).get("loss", 0.0) is None:
                raise NotFiniteError(
                    f"the run learned nothing: its {split} loss is not finite, and "
                    f"{summary['skipped_updates']} of {summary['step']} updates were skipped: "
                    "lower learning_rate or set clip_norm"
                )
        if summary.get("learned_by_heart") is False:
            raise TrainingError(
                f"overfit={self.recipe.overfit}: the loss is still "
                f"{summary['validation']['loss']:.3g} after {summary['step']} steps: model, loss "
                "or learning rate is at fault"
            )
        return summary


def restore(
    prepared: Prepared,
    directory: pathlib.Path,
    which: str = "best",
    folder: str = checkpoint.FOLDER,
) -> Any:
    """A run's checkpoint (`checkpoint.Restored`), canonical.

    Args:
      prepared: of the run's recipe.
      directory: the run directory.
      which: "best", "newest", or the number of a step.
      folder: of the checkpoints, in the run directory.

    Raises:
      UsageError: there is none, or it is damaged or of another model.
    """
    abstract = prepared.program.abstract_state
    return checkpoint.read(
        directory / folder,
        prepared.learner.watched_mode,
        which,
        lambda checkpoints, step: checkpoints.restore(abstract, step),
    )


def split_batches(prepared: Prepared, split: str) -> Any:
    """This process's shares of a split's batches.

    Raises:
      UsageError: the dataset has no such split.
    """
    if split not in prepared.dataset.splits:
        there = ", ".join(prepared.dataset.splits)
        raise UsageError(f"split={split}: {prepared.recipe.data} has {there}")
    return prepared.dataset.evaluation_batches(
        split, prepared.recipe.batch_size, jax.process_index(), jax.process_count()
    )


def _open(learner: Learner | type[Learner], folder: pathlib.Path) -> Checkpoints:
    return Checkpoints(folder, mode=learner.watched_mode, read_only=True)
