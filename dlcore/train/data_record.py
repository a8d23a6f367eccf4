"""`data.json`: what a run was trained on, so that it goes on, and is judged, with nothing else.

It lies beside the checkpoints of the run, or of a phase; a needed run has its own. It holds names,
sizes, statistics and fingerprints (`dlcore.data.description`), and no places: data that were moved
are the same, and those that have grown are others.
"""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Callable

import msgspec

from dlcore import data
from dlcore.data.description import Description, change, described
from dlcore.errors import UsageError
from dlcore.train import workdir
from dlcore.train.recipe import Need, Recipe
from dlcore.train.settings import Settings

_NAME = "data.json"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """The record of a run's data, or of a phase's.

    Attributes:
      name: the recipe's `data`.
      folder: of the record, in the run directory.
      describe: says what the data are now.
    """

    name: str
    folder: str
    describe: Callable[[], Description]

    def keep(self, directory: pathlib.Path) -> None:
        """Writes what the data are, where that is not yet written.

        Raises:
          TrainingError: it cannot be written.
        """
        path = directory / self.folder / _NAME
        if path.exists():
            return
        if (path.parent / "checkpoints").exists():
            _log.warning("%s: the data of this run were not recorded: they are now", path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        workdir.write_json(path, self.describe())

    def check(self, directory: pathlib.Path) -> None:
        """Raises UsageError where the data are no longer those that were recorded."""
        path = directory / self.folder / _NAME
        # A run of an earlier state has none.
        found = path.exists() and change(read(path), self.describe())
        if found:
            raise UsageError(
                f"data={self.name}: {found.what}: {found.before} when {path.parent} was trained,"
                f" {found.now} now: restore the data, give data=PLACE if they lie elsewhere now, or"
                " train into a new directory"
            )

    def dataset(self, directory: pathlib.Path, recipe: Recipe) -> data.Dataset | None:
        """What new inputs can be prepared with, as it was recorded; the data stay unread.

        Args:
          directory: of the run.
          recipe: with the options of the data.

        Returns:
          None where nothing is recorded, or what is recorded does not suffice.

        Raises:
          UsageError: the record is damaged.
        """
        path = directory / self.folder / _NAME
        return described(read(path), self.name, recipe.data_options) if path.exists() else None


def read(path: pathlib.Path) -> Description:
    """What `DataRecord.keep` wrote.

    Raises:
      UsageError: the file is not there, or holds no description.
    """
    plain = workdir.read_json(path)
    try:
        return msgspec.convert(plain, Description)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} is damaged: it describes no data ({error})") from error


def located(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with data of one's own under absolute paths, for whatever directory it is read in.

    Raises:
      UsageError: a module of a needed recipe is not there.
    """
    return _renamed(recipe, lambda name: data.located(name, settings.data_dir or None))


def moved(recipe: Recipe, place: str) -> Recipe:
    """The recipe with another name for its data, wherever it has that name."""
    return _renamed(recipe, lambda name: place if name == recipe.data else name)


def named_as_there(recipe: Recipe, directory: pathlib.Path) -> Recipe:
    """The recipe with the name that a run directory has for the same data.

    Data of one's own that were recorded are known by what they are, wherever they lie now.

    Raises:
      UsageError: another version wrote what is there.
    """
    if not (directory / "recipe.json").exists():
        return recipe
    there = workdir.read_recipe(directory).data
    are_own = _is_own(there) and _is_own(recipe.data)
    same = data.located(there) == recipe.data or (are_own and (directory / _NAME).exists())
    return moved(recipe, there) if same else recipe


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
