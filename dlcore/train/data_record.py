"""`data.json`: what a run was trained on, so that it goes on, and is judged, with nothing else.

It lies beside the checkpoints of the run, or of a phase; a needed run has its own. It holds names,
sizes, statistics and fingerprints (`dlcore.data.description`), and no places: data that were moved
are the same, and those that have grown are others.
"""

import dataclasses
import functools
import logging
import pathlib
import re
from collections.abc import Callable, Iterator

from dlcore import data, models, tasks
from dlcore.data.description import Description, change, described, parsed
from dlcore.errors import UsageError
from dlcore.train import checkpoint, workdir
from dlcore.train.preparation import open_data
from dlcore.train.recipe import Need, Recipe
from dlcore.train.settings import Settings

_NAME = "data.json"

_log = logging.getLogger(__name__)


class PhaseData:
    """The data of a run without phases, or of one phase, and their record.

    Args:
      recipe: of the phase.
      settings: where the data are.
      folder: of the record, in the run directory.
      recorded: the run directory, where new inputs are all that is to be prepared: the data are not
        opened, if what was recorded of them suffices.
    """

    def __init__(
        self,
        recipe: Recipe,
        settings: Settings,
        folder: pathlib.PurePath,
        recorded: pathlib.Path | None = None,
    ) -> None:
        self._recipe, self._settings = recipe, settings
        self._file, self._recorded = folder / _NAME, recorded

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """What the recipe learns from, as `preparation.open_data` gives it.

        Raises:
          UsageError: the data, or what was recorded of them, cannot be read or do not fit.
        """
        path = self._recorded and self._recorded / self._file
        known = None
        if path and path.exists() and not _follows_counts(self._recipe):
            known = described(read(path), self._recipe.data, self._recipe.data_options)
        return known or open_data(self._recipe, self._settings)

    def keep(self, directory: pathlib.Path) -> None:
        """Writes what the data are, where that is not yet written.

        Raises:
          TrainingError: it cannot be written.
        """
        path = directory / self._file
        if path.exists():
            return
        if (path.parent / checkpoint.FOLDER).exists():
            _log.warning("%s: the data of this run were not recorded: they are now", path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        workdir.write_json(path, data.describe(self.dataset))

    def check(self, directory: pathlib.Path) -> None:
        """Raises UsageError where the data are no longer those that were recorded."""
        path = directory / self._file
        # A run of an earlier state has none.
        found = path.exists() and change(read(path), data.describe(self.dataset))
        if found:
            raise UsageError(
                f"data={self._recipe.data}: {found.what}: {found.before} when {path.parent} was"
                f" trained, {found.now} now: restore the data, give data=PLACE if they lie"
                " elsewhere now, or train into a new directory"
            )


def _follows_counts(recipe: Recipe) -> bool:
    """Whether a part of it takes how often each class or token occurs, which is not recorded."""
    return "frequencies" in {**models.defaults(recipe.model), **tasks.defaults(recipe.task)}


def read(path: pathlib.Path) -> Description:
    """What `PhaseData.keep` wrote.

    Raises:
      UsageError: the file is not there, or holds no description.
    """
    plain = workdir.read_json(path)
    try:
        return parsed(plain)
    except ValueError as error:
        raise UsageError(
            f"{path} is damaged: it describes no data ({error}): where it is removed, training"
            " records the data anew"
        ) from error


def located(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with data of one's own under absolute paths, for whatever directory it is read in.

    Raises:
      UsageError: a module of a needed recipe is not there.
    """
    return _renamed(recipe, lambda name: data.located(name, settings.data_dir or None))


def moved(recipe: Recipe, place: str) -> Recipe:
    """The recipe with another name for the data of its last phase, wherever it has that name."""
    last = recipe.by_phase()[-1].data
    return _renamed(recipe, lambda name: place if name == last else name)


def named_as_there(recipe: Recipe, directory: pathlib.Path) -> Recipe:
    """The recipe with the names that a run directory has for the same data.

    Data of one's own that were recorded are known by what they are, wherever they lie now.

    Raises:
      UsageError: another version wrote what is there.
    """
    if not (directory / "recipe.json").exists():
        return recipe
    names = dict(_names_there(recipe, workdir.read_recipe(directory), directory))
    return _renamed(recipe, lambda name: names.get(name, name))


def _names_there(
    recipe: Recipe, there: Recipe, directory: pathlib.Path
) -> Iterator[tuple[str, str]]:
    """Names of data in a recipe, each with the one that a run has for the same."""
    pairs = [(recipe.data, there.data)]
    for phases in zip(recipe.phases, there.phases, strict=False):
        here, old = (phase.overrides.get("data", "") for phase in phases)
        if here and old:
            pairs.append((here, old))
    recorded = (directory / _NAME).exists()
    for here, old in pairs:
        # Where they lay may be a place that is closed now.
        if (recorded and _is_own(old) and _is_own(here)) or data.located(old) == here:
            yield here, old
    for name in recipe.needs.keys() & there.needs.keys():
        one, other = recipe.needs[name].recipe, there.needs[name].recipe
        yield from _names_there(one, other, directory / name)


def _is_own(name: str) -> bool:
    """Whether a name has an absolute path; `zip:A,B` has two parts that may be one."""
    return any(pathlib.PurePath(part).is_absolute() for part in re.split("[:,]", name))


def _renamed(recipe: Recipe, rename: Callable[[str], str]) -> Recipe:
    for need in recipe.needs.values():
        # What registers a name tells it from a path.
        need.recipe.import_modules()
    phases = tuple(
        dataclasses.replace(
            phase, overrides={**phase.overrides, "data": rename(phase.overrides["data"])}
        )
        if "data" in phase.overrides
        else phase
        for phase in recipe.phases
    )
    needs = {
        name: Need(_renamed(need.recipe, rename), need.same_data)
        for name, need in recipe.needs.items()
    }
    return dataclasses.replace(recipe, data=rename(recipe.data), phases=phases, needs=needs)
