"""Flags from a recipe, and how every program starts and ends.

Each field of a recipe is an absl flag that overrides it; the options of the task, the model and
the data are flags with a dot: `--model.hidden=500`. Which ones there are depends on the recipe, so
the command line is read twice: first for the names, then for all.

Exit codes: 0 done, 1 the work failed, 2 the command or its input has to be mended.
"""

import dataclasses
import inspect
import logging
import pathlib
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging

from dlcore import data, models, processes, tasks
from dlcore.errors import TrainingError, UsageError
from experiments import recipes

FlagValues = flags.FlagValues
_COMPONENTS = ("task", "model", "data")
# What a flag of each of absl's types takes.
_TAKES = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "integers": "integers with commas between them",
}
_FIXED = ("name", "description", "expected", *(f"{component}_options" for component in _COMPONENTS))


def run(main: Callable[[FlagValues], int | None], define: Callable[..., None]) -> None:
    """Parses the command line and runs a program.

    Args:
      main: the program; its argument holds the flags; it returns the exit code, None for 0.
      define: `(flag values, command line)` defines the program's flags.
    """

    def parse(argv: Sequence[str]) -> FlagValues:
        # absl's own flags keep their defaults: a program has the flags that it defines, and no
        # others.
        flags.FLAGS(argv[:1])
        values = FlagValues()
        try:
            _read(values, argv, define)
        except (flags.Error, UsageError) as error:
            _fail(_explained(error, values, argv), 2)
        if values.help:
            print(_help(inspect.getmodule(main), values))
            sys.exit(0)
        return values

    def guarded(values: FlagValues) -> int | None:
        # In the place of absl's handler, which `basicConfig` would close, and its stream with it.
        logging.getLogger().handlers[:] = [logging.StreamHandler()]
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("dlcore").setLevel(logging.INFO)
        # Orbax and TFDS tell of their inner life as warnings, and print errors that they raise too.
        absl_logging.set_verbosity(absl_logging.FATAL)
        try:
            return main(values)
        except UsageError as error:
            _fail(error, 2)
        except (TrainingError, OSError) as error:  # A full disk names itself and its file.
            _fail(error, 1)
        except Exception as error:
            if jax.distributed.is_initialized():
                processes.abandon(error)
            raise
        return None

    app.run(guarded, flags_parser=parse)


def _read(values: FlagValues, argv: Sequence[str], define: Callable[..., None]) -> None:
    flags.DEFINE_bool("help", False, "Show this help.", flag_values=values, short_name="h")
    define(values, argv)
    rest = values(argv)[1:]
    if "files" in values:
        values["files"].value = rest
    elif rest:
        raise UsageError(f"{rest[0]!r} is no flag: flags are written --name=value")


def _fail(error: Exception | str, code: int) -> None:
    line = " ".join(str(error).split())
    print(f"error: {line}", file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        processes.leave(code)
    sys.exit(code)


def _explained(error: Exception, values: FlagValues, argv: Sequence[str]) -> str:
    """What a bad command line needs, where absl says only what Python cannot read."""
    ill_typed = re.match(r"flag --(([\w.]+)=.*?): ", str(error))
    if isinstance(error, flags.IllegalFlagValueError) and ill_typed:
        given, name = ill_typed.groups()
        return f"--{given}: it takes {_TAKES[values[name].flag_type()]}"
    nameless = "recipe" in values and not peek(argv, "recipe")
    if isinstance(error, flags.UnrecognizedFlagError) and nameless:
        return f"{error}; a recipe's flags need --recipe=NAME"
    return str(error)


def _help(program: types.ModuleType | None, values: FlagValues) -> str:
    lines = [inspect.getdoc(program) or "", "", "Flags:"]
    for name, flag in values._flags().items():
        if name in ("h", "files"):
            continue
        lines.append(f"  --{name}: {flag.help}{_shown(flag.default)}")
    if "recipe" in values and not values.recipe:
        lines.append("With --recipe=NAME, --help also lists the recipe's fields, each a flag.")
    return "\n".join(lines)


def _shown(default: Any) -> str:
    if default is None or default == "":
        return ""
    items = default if isinstance(default, tuple | list) else (default,)
    return f" (default: {','.join(map(str, items))})"


def descriptions(documented: Any) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each name under "Attributes:"."""
    found: dict[str, str] = {}
    for base in reversed(inspect.getmro(documented)):
        section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:")[2]
        section = re.split(r"\n\S", section)[0]
        entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section, re.MULTILINE)
        found |= {name: " ".join(text.split()) for name, text in entries}
    return found


class _Integers(flags.ArgumentParser):
    """Reads integers with commas between them as a tuple."""

    def parse(self, argument: str | tuple[int, ...]) -> tuple[int, ...]:
        return argument if isinstance(argument, tuple) else tuple(map(int, argument.split(",")))

    def flag_type(self) -> str:
        return "integers"


def define_one(
    values: FlagValues, name: str, default: Any, meaning: str, kind: type | None = None
) -> None:
    """Defines a flag of the default's type: bool, int, float, str or a tuple of integers."""
    kind = kind or type(default)
    arguments = {"name": name, "default": default, "help": meaning, "flag_values": values}
    if kind is tuple:
        flags.DEFINE(_Integers(), **arguments)
        return
    define: dict[type, Callable[..., Any]] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
        list: flags.DEFINE_list,
    }
    define[kind](**arguments)


def define_dataclass(values: FlagValues, settings: type) -> None:
    """Defines a flag for every field of a dataclass, explained by its docstring."""
    meanings = descriptions(settings)
    for field in dataclasses.fields(settings):
        define_one(values, field.name, field.default, meanings[field.name])


def read_dataclass(values: FlagValues, settings: type) -> Any:
    """The dataclass with its fields as the flags say."""
    return settings(
        **{field.name: values[field.name].value for field in dataclasses.fields(settings)}
    )


def define_distributed(values: FlagValues) -> None:
    """Defines the flags by which several processes find each other."""
    define_one(values, "distributed", False, "Train with several processes, this being one.")
    where = "only where the cluster is not detected (Slurm, TPU pods are)"
    define_one(values, "coordinator_address", None, f"HOST:PORT of process 0; {where}.", str)
    define_one(values, "num_processes", None, f"Number of processes; {where}.", int)
    define_one(values, "process_id", None, f"Number of this process, from 0; {where}.", int)


def read_distributed(values: FlagValues) -> tuple[str | None, int | None, int | None] | None:
    """Address, number of processes and own number; None where this is the only process.

    Raises:
      UsageError: there is an address or a number, but no `--distributed`.
    """
    given = (values.coordinator_address, values.num_processes, values.process_id)
    if values.distributed:
        return given
    if any(value is not None for value in given):
        raise UsageError("--coordinator_address, --num_processes, --process_id need --distributed")
    return None


def define_run(values: FlagValues) -> None:
    """Defines the flags of a program that looks at a finished or running training."""
    define_one(values, "workdir", None, "Run directory.", str)
    define_one(values, "checkpoint", "best", "Checkpoint: best, newest, or the number of a step.")
    define_one(values, "data_dir", "", "Directory of prepared TFDS datasets.")
    define_kernels(values)


def define_kernels(values: FlagValues) -> None:
    """Defines the flag of a program that runs or compiles a model."""
    meaning = (
        "Implementation of the kernels that the model calls: auto, xla, mosaic_gpu, mosaic_tpu."
    )
    define_one(values, "kernels", "auto", meaning)


def run_directory(values: FlagValues) -> pathlib.Path:
    """The directory that `--workdir` names.

    Raises:
      UsageError: the flag is missing, or there is no such directory.
    """
    if not values.workdir:
        raise UsageError("--workdir is missing: name the directory of a run")
    directory = pathlib.Path(values.workdir)
    if not directory.is_dir():
        raise UsageError(f"--workdir={directory} does not exist: name the directory of a run")
    return directory


def peek(argv: Sequence[str], name: str) -> str | None:
    """The value of a flag on a command line that is not parsed yet."""
    # Of several, absl takes the last.
    for position, word in reversed(list(enumerate(argv))):
        if re.fullmatch(f"--?{name}", word):
            return argv[position + 1] if position + 1 < len(argv) else None
        if match := re.fullmatch(f"--?{name}=(.*)", word):
            return match.group(1)
    return None


def define_recipe(values: FlagValues, recipe: recipes.Recipe, argv: Sequence[str]) -> None:
    """Defines a flag for every field of a recipe and every option of its task, model and data."""
    meanings = descriptions(recipes.Recipe)
    for field in dataclasses.fields(recipe):
        if field.name not in _FIXED:
            define_one(values, field.name, getattr(recipe, field.name), meanings[field.name])
    for component in _COMPONENTS:
        name = peek(argv, component) or getattr(recipe, component)
        data_dir = peek(argv, "data_dir")
        meanings = descriptions(_documented(recipe, component, name, data_dir))
        for option, default in _defaults(recipe, component, name, data_dir).items():
            define_one(values, f"{component}.{option}", default, meanings.get(option, ""))


def _data_options(recipe: recipes.Recipe, name: str, data_dir: str | None) -> type[data.Options]:
    try:
        return data.options_kind(name, data_dir)
    except UsageError:  # Opening the dataset will say so.
        of_text = "sequence_length" in recipe.data_options
        return data.TextOptions if of_text else data.ExampleOptions


def _documented(recipe: recipes.Recipe, component: str, name: str, data_dir: str | None) -> Any:
    if component == "data":
        return _data_options(recipe, name, data_dir)
    return tasks.kind(name) if component == "task" else type(models.create(name))


def _defaults(
    recipe: recipes.Recipe, component: str, name: str, data_dir: str | None
) -> dict[str, Any]:
    own = getattr(recipe, f"{component}_options")
    if component == "data":
        fields = dataclasses.fields(_data_options(recipe, name, data_dir))
        known = {field.name: field.default for field in fields}
        # Another dataset is prepared as the recipe's own, as far as it has these options.
        known |= {option: value for option, value in own.items() if option in known}
    else:
        known = {"task": tasks, "model": models}[component].defaults(name)
    if name == getattr(recipe, component):
        known |= own
    return known


def read_recipe(values: FlagValues, recipe: recipes.Recipe) -> recipes.Recipe:
    """The recipe with the command line's overrides; its options are complete."""
    fields: dict[str, Any] = {
        field.name: values[field.name].value
        for field in dataclasses.fields(recipe)
        if field.name not in _FIXED
    }
    for component in _COMPONENTS:
        data_dir = values["data_dir"].value if "data_dir" in values else None
        known = _defaults(recipe, component, fields[component], data_dir)
        fields[f"{component}_options"] = {
            option: values[f"{component}.{option}"].value for option in known
        }
    return dataclasses.replace(recipe, **fields)
