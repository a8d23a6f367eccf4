"""The run directory: whose it is, and what may be written into it."""

import contextlib
import fcntl
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from dlcore import processes
from dlcore.errors import TrainingError, UsageError
from experiments import recipes

# What a program that was killed before anything else may have left.
_EARLY = (".lock", "recipe.json.partial")


def named(name: str | pathlib.Path) -> pathlib.Path:
    """The directory that `--workdir` names, whether it is there or not.

    Raises:
      UsageError: it is a file.
    """
    directory = pathlib.Path(name)
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--workdir={directory} is a file: name a directory")
    return directory


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file so that a reader finds either the old one or the whole new one.

    Raises:
      TrainingError: it cannot be written, as where the disk is full.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise TrainingError(f"{path} could not be written: {error.strerror}") from error


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      UsageError: the file is not there or holds no JSON object.
    """
    try:
        return dict(json.loads(path.read_text()))
    except OSError as error:
        raise UsageError(f"{path.parent} is no run directory: {path.name} is missing") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged: it holds no JSON object ({error})") from error


def read_recipe(workdir: pathlib.Path) -> recipes.Recipe:
    """The recipe that a run directory belongs to, with the expectation of its name.

    Raises:
      UsageError: there is no run there, or a field is not of this version.
    """
    try:
        return recipes.Recipe.from_json(read_json(workdir / "recipe.json"))
    except TypeError as error:
        raise UsageError(f"{workdir / 'recipe.json'} is of another version: {error}") from error


@contextlib.contextmanager
def claim(workdir: pathlib.Path, recipe: recipes.Recipe) -> Iterator[None]:
    """Makes a directory the run directory of a recipe, for one program at a time.

    Of several processes the first one does it for all.

    Raises:
      UsageError: it holds another recipe's run or foreign files, or another program trains in it.
    """
    problem: Exception | None = None
    with contextlib.ExitStack() as held:
        if jax.process_index() == 0:
            try:
                held.enter_context(_locked(workdir, recipe))
            except (TrainingError, UsageError) as error:
                problem = error
        if not processes.first_says(problem is None):
            raise problem or UsageError(f"--workdir={workdir} is refused by process 0: it says why")
        _check_same(workdir, read_json(workdir / "recipe.json"), recipe.to_json())
        yield


@contextlib.contextmanager
def _locked(workdir: pathlib.Path, recipe: recipes.Recipe) -> Iterator[None]:
    path = named(workdir) / "recipe.json"
    if path.exists():
        _check_same(workdir, read_json(path), recipe.to_json())
    elif workdir.exists() and any(entry.name not in _EARLY for entry in workdir.iterdir()):
        raise UsageError(
            f"--workdir={workdir} holds files but no recipe.json: name a new or empty directory"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"--workdir={workdir} cannot be written: {error.strerror}") from error
    with lock:
        try:
            # The lock goes with the process, however that ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"--workdir={workdir} is in use by another training: wait, or name another one"
            ) from error
        if not path.exists():
            write_json(path, recipe.to_json())
        yield


def _check_same(workdir: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    if one_sided := sorted(there.keys() ^ here.keys()):
        raise UsageError(
            f"--workdir={workdir} belongs to a run of another version: only one of the two knows "
            f"--{one_sided[0]}: name another directory"
        )
    there, here = _flat(there), _flat(json.loads(json.dumps(here)))
    names = sorted(there.keys() | here.keys(), key=lambda name: (name != "name", name))
    differing = [name for name in names if there.get(name) != here.get(name)]
    if not differing:
        return
    name = differing[0]
    flag = "recipe" if name == "name" else name
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    raise UsageError(
        f"--workdir={workdir} belongs to a run with --{flag}={there.get(name)}, this command has "
        f"--{flag}={here.get(name)}{more}: name another directory"
    )


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, dict):
            component = name.removesuffix("_options")
            flat |= {f"{component}.{option}": setting for option, setting in value.items()}
        else:
            flat[name] = value
    return flat
