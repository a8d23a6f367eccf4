"""The run directory: whose it is, and what may be written into it."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import msgspec

from dlcore import data, models, paths, processes, tasks
from dlcore.errors import TrainingError, UsageError
from dlcore.train import checkpoint
from dlcore.train.recipe import Recipe
from dlcore.train.settings import Settings
from dlcore.train.writers import plain

# What a program that was killed before anything else may have left.
_EARLY = (".lock", "recipe.json.partial")


def named(name: str | os.PathLike[str]) -> pathlib.Path:
    """The directory of a name, whether it is there or not.

    Raises:
      UsageError: it is a file, not on this machine, or checkpoints there could not be read back.
    """
    directory = paths.directory(name, "workdir")
    if problem := checkpoint.unreadable(directory):
        raise UsageError(f"workdir={directory}: {problem}")
    return directory


def to_write(name: str | os.PathLike[str]) -> pathlib.Path:
    """The directory of a name, into which a program is to write; nothing is made yet.

    Raises:
      UsageError: see `named`; or nothing can be made there.
    """
    return paths.to_write(named(name), "workdir")


def check_apart(directory: pathlib.Path, recipe: Recipe, settings: Settings) -> None:
    """Raises UsageError where a directory lies in the data, of which its files would become a part.

    Args:
      directory: to be written into.
      recipe: whose data it may not lie in.
      settings: where the data are.
    """
    for place in data.places(recipe.data, settings.data_dir or None):
        if directory.resolve().is_relative_to(place.resolve()):
            raise UsageError(
                f"workdir={directory} lies in the data, {place}: name a directory elsewhere"
            )


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file so that a reader finds either the old one or the whole new one.

    In it, numbers that are not finite are null.

    Raises:
      TrainingError: it cannot be written, as where the disk is full.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(plain(content), indent=1, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise TrainingError(f"{path} could not be written: {error.strerror}") from error


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      UsageError: the file is not there or holds no JSON object.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError as error:
        raise UsageError(f"{path.parent} is no run directory: {path.name} is missing") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged: it holds no JSON object ({error})") from error


def read_recipe(workdir: pathlib.Path) -> Recipe:
    """The recipe that a run directory belongs to.

    Raises:
      UsageError: there is no run there, or another version wrote it.
    """
    plain = read_json(workdir / "recipe.json")
    try:
        return Recipe.from_json(plain)
    except UsageError as error:
        raise UsageError(f"{workdir}: {error}") from error


class Kept(Protocol):
    """What a run directory keeps beside its recipe, and is checked against it."""

    def keep(self, directory: pathlib.Path) -> None:
        """Writes what is not there yet."""

    def check(self, directory: pathlib.Path) -> None:
        """Raises UsageError where what is there is another one."""


@contextlib.contextmanager
def claim(workdir: pathlib.Path, recipe: Recipe, kept: Sequence[Kept] = ()) -> Iterator[None]:
    """Makes a directory the run directory of a recipe, for one program at a time.

    Of several processes the first one does it for all.

    Args:
      workdir: new, empty, or of a run of that recipe.
      recipe: whose it is to be.
      kept: beside the recipe.

    Raises:
      UsageError: it holds another recipe's run or foreign files, something that it keeps is another
        one, or another program trains in it.
    """
    processes.at("the claim of the directory")
    problem: Exception | None = None
    with contextlib.ExitStack() as held:
        if jax.process_index() == 0:
            try:
                held.enter_context(_locked(workdir, recipe, kept))
            except (TrainingError, UsageError) as error:
                problem = error
        if not processes.first_says(problem is None):
            raise problem or UsageError(f"workdir={workdir} is refused by process 0: it says why")
        _check_same(workdir, read_recipe(workdir), recipe, kept)
        yield


@contextlib.contextmanager
def _locked(workdir: pathlib.Path, recipe: Recipe, kept: Sequence[Kept]) -> Iterator[None]:
    path = named(workdir) / "recipe.json"
    if path.exists():
        _check_same(workdir, read_recipe(workdir), recipe, kept)
    elif workdir.exists() and any(entry.name not in _EARLY for entry in workdir.iterdir()):
        raise UsageError(
            f"workdir={workdir} holds files but no recipe.json: name a new or empty directory"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"workdir={workdir} cannot be written: {error.strerror}") from error
    with lock:
        try:
            # The lock goes with the process, however that ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"workdir={workdir} is in use by another training: wait, or name another one"
            ) from error
        if not path.exists():
            write_json(path, recipe.to_json())
        for one in kept:
            one.keep(workdir)
        yield


def _check_same(workdir: pathlib.Path, there: Recipe, here: Recipe, kept: Sequence[Kept]) -> None:
    """Raises UsageError where the recipes differ, or what is kept beside them does.

    What one of the recipes leaves open has its default.
    """
    # The launcher spells out all options of the data; a recipe with phases, as Python has it, does
    # not.
    known = _of_data({*there.data_options, *here.data_options})
    old, new = _decisive(there, here, known), _decisive(here, here, known)
    names = sorted(old.keys() | new.keys(), key=lambda name: (name != "recipe", name))
    differing = [name for name in names if old.get(name) != new.get(name)]
    # Options that may follow the data differ where these do, which says more.
    if all(name.startswith(("model.", "task.")) for name in differing):
        for one in kept:
            one.check(workdir)
    if not differing:
        return
    name = differing[0]
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    raise UsageError(
        f"workdir={workdir} belongs to a run with {name}={old.get(name)}, this one has "
        f"{name}={new.get(name)}{more}: name another directory"
    )


def _decisive(recipe: Recipe, here: Recipe, of_data: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run's result, as JSON holds it, under the names that the launcher has for it.

    Options that are left open have their defaults. Those of another task or model than the recipe
    in hand has are not asked for: it may come from a module that is not imported.
    """
    plain = recipe.to_json()
    for name in ("version", "description", "expected"):
        del plain[name]
    facts: dict[str, Any] = {"recipe": plain.pop("name")}
    defaults: dict[str, Callable[[str], Mapping[str, Any]]] = {
        "task": tasks.defaults,
        "model": models.defaults,
        "data": lambda _: of_data,
    }
    for component, of in defaults.items():
        known = of(plain[component]) if plain[component] == getattr(here, component) else {}
        options = {**known, **plain.pop(f"{component}_options")}
        facts |= {f"{component}.{option}": value for option, value in options.items()}
    for name, need in plain.pop("needs").items():
        needed = _decisive(Recipe.from_json(need["recipe"]), here, of_data)
        facts[f"needs.{name}"] = needed.pop("recipe")
        facts |= {f"needs.{name}.{field}": value for field, value in needed.items()}
        facts[f"needs.{name}.same_data"] = need["same_data"]
    for phase in plain["phases"]:
        facts |= {f"phase.{phase['name']}.{field}": v for field, v in phase["overrides"].items()}
    plain["phases"] = [phase["name"] for phase in plain["phases"]]
    return dict(json.loads(json.dumps(facts | plain)))


def _of_data(options: Iterable[str]) -> dict[str, Any]:
    """The defaults of a dataset's options; of which kind it is, their names tell."""
    kinds = (data.TextOptions(), data.ExampleOptions())
    defaults = {name: one for kind in kinds for name, one in dataclasses.asdict(kind).items()}
    return {name: defaults[name] for name in options if name in defaults}
