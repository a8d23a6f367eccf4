"""Flags from a recipe, and how every program reads its own.

Each field of a recipe is an absl flag that overrides it; the options of the task, the model and
the data are flags with a dot: `--model.hidden=500`. Which ones there are depends on the recipe, so
the command line is read twice: first for the names, then for all.
"""

import collections
import dataclasses
import functools
import inspect
import itertools
import pathlib
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from dlcore import data, models, paths, processes, ranges, tasks
from dlcore.errors import UsageError
from dlcore.train import Need, Phase, Recipe, Run, Settings, workdir
from dlcore.train.recipe import COMPONENTS
from experiments import ending, recipes

FlagValues = flags.FlagValues
# What a flag of each of absl's types takes.
_TAKES = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "integers": "integers with commas between them",
    "numbers": "numbers with commas between them",
}
# What names a path: an empty one comes of a shell's variable that is not set. What may be empty on
# purpose (`start_from`) is not among them.
PATHS = ("data", "data_dir", "output", "plot", "torch", "workdir")
# Flags that may differ among the processes of a run.
_OF_ONE_PROCESS = ("coordinator_address", "process_id", "data_dir")
# The fields of a recipe that are flags of the same name, with their types; the others say what
# flags there are.
_FIELDS: dict[str, Any] = {
    field.name: ranges.plain(field.type)
    for field in dataclasses.fields(Recipe)
    if field.name not in ("name", "description", "expected", "imports", "needs", "phases")
    and not field.name.endswith("_options")
}


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
        except flags.Error as error:
            ending.fail(_explained(error, values, argv), 2, values)
        except UsageError as error:
            ending.fail(error, 2, values)
        if values.help:
            print(_help(inspect.getmodule(main), values))
            sys.exit(0)
        return values

    app.run(functools.partial(ending.guarded, main), flags_parser=parse)


def _read(values: FlagValues, argv: Sequence[str], define: Callable[..., None]) -> None:
    flags.DEFINE_bool("help", False, "Show this help.", flag_values=values, short_name="h")
    argv = _expanded(values, argv)
    define(values, argv)
    rest = values(argv)[1:]
    for name in PATHS:
        if name in values and values[name].present and not values[name].value:
            raise UsageError(f"--{name}= is empty: name a path, or leave the flag out")
    if "files" in values:
        values["files"].value = rest
    elif rest:
        raise UsageError(f"{rest[0]!r} is no flag: flags are written --name=value")


def _expanded(values: FlagValues, argv: Sequence[str]) -> list[str]:
    """The command line with what files of flags hold in the place of each absl's `--flagfile`."""
    for name in _given(argv, "flagfile"):
        path = paths.local(name, "--flagfile")
        # A pipe will do, as of a shell's <(command).
        if path.is_dir() or not path.exists():
            raise UsageError(f"--flagfile={name} is no file: name one with a flag in each line")
    try:
        return [argv[0], *values.read_flags_from_files(argv[1:], force_gnu=False)]
    except UnicodeDecodeError as error:
        raise UsageError(f"--flagfile: what it names is no text ({error})") from error


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


def descriptions(documented: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each name under "Attributes:"."""
    # Without docstrings (`python -OO`), flags have no help.
    found: dict[str, str] = collections.defaultdict(str) if sys.flags.optimize > 1 else {}
    for kind in reversed(documented.__mro__):
        section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:")[2]
        section = re.split(r"\n\S", section)[0]
        entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section, re.MULTILINE)
        found |= {name: " ".join(text.split()) for name, text in entries}
    return found


class _Tuple(flags.ArgumentParser):
    """Reads numbers with commas between them, all of one type."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def parse(self, argument: str | tuple[float, ...]) -> tuple[float, ...]:
        if isinstance(argument, tuple):
            return argument
        return tuple(map(self._kind, argument.split(",")))

    def flag_type(self) -> str:
        return "integers" if self._kind is int else "numbers"


def _define_tuple(default: tuple[float, ...], **words: Any) -> None:
    """Of the numbers' type in the default; of integers where it is empty."""
    kind = float if any(isinstance(number, float) for number in default or ()) else int
    flags.DEFINE(_Tuple(kind), default=default, **words)


# What defines a flag, by the type of its default.
_KINDS: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    list: flags.DEFINE_list,
    tuple: _define_tuple,
}


def define_one(values: FlagValues, name: str, default: Any, meaning: str, kind: Any = None) -> None:
    """Defines a flag of a type, or the default's: bool, int, float, str, a tuple of numbers.

    A type that declares a range (`dlcore.ranges`) holds the flag to it.
    """
    define = _KINDS[ranges.plain(kind) if kind else type(default)]
    define(name=name, default=default, help=meaning, flag_values=values)
    if kind is not ranges.plain(kind):
        flags.register_validator(name, functools.partial(_check, name, kind), flag_values=values)


def _check(name: str, kind: Any, value: Any) -> bool:
    """Raises UsageError where a flag is out of its range."""
    if wanted := ranges.problem(kind, value):
        raise UsageError(f"--{name}={ranges.shown(value)}: it must be {wanted}")
    return True


def define_dataclass(values: FlagValues, settings: Any) -> None:
    """Defines a flag for every field of a dataclass, explained by its docstring."""
    meanings = descriptions(settings)
    for field in dataclasses.fields(settings):
        define_one(values, field.name, field.default, meanings[field.name], field.type)


def read_dataclass(values: FlagValues, settings: Any) -> Any:
    """The dataclass with its fields as the flags say."""
    return settings(
        **{field.name: values[field.name].value for field in dataclasses.fields(settings)}
    )


def define_distributed(values: FlagValues) -> None:
    """Defines the flags by which several processes find each other."""
    define_one(values, "distributed", False, "Train with several processes, this being one.")
    where = "only where the cluster is not detected (Slurm, TPU pods are)"
    define_one(values, "coordinator_address", None, f"HOST:PORT of process 0; {where}.", str)
    count, own = f"Number of processes; {where}.", f"Number of this process, from 0; {where}."
    define_one(values, "num_processes", None, count, ranges.Positive)
    define_one(values, "process_id", None, own, ranges.Natural)


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


def join_processes(values: FlagValues) -> None:
    """Joins this process to the others of the run, where there are others.

    Raises:
      UsageError: they cannot meet, or their flags differ.
    """
    if addresses := read_distributed(values):
        same = {name: str(values[name].value) for name in values if name not in _OF_ONE_PROCESS}
        processes.start(*addresses, same, values.step_timeout)


def define_run(values: FlagValues) -> None:
    """Defines the flags of a program that looks at a finished or running training."""
    define_one(values, "workdir", None, "Run directory.", str)
    define_one(values, "checkpoint", "best", "Checkpoint: best, newest, or the number of a step.")
    define_one(values, "data", "", "Where the data of the run lie now, if they have moved.")
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
    directory = workdir.named(values.workdir)
    if not directory.is_dir():
        raise UsageError(f"--workdir={directory} does not exist: name the directory of a run")
    return directory


def peek(argv: Sequence[str], name: str) -> str | None:
    """The value of a flag on a command line that is not parsed yet."""
    # Of several, absl takes the last.
    return next(reversed(_given(argv, name)), None)


def _given(argv: Sequence[str], name: str) -> list[str]:
    """Every value that a flag is given on a command line, in order."""
    found = []
    for word, following in itertools.zip_longest(argv, argv[1:]):
        if re.fullmatch(f"--?{name}", word) and following is not None:
            found.append(following)
        elif match := re.fullmatch(f"--?{name}=(.*)", word, re.DOTALL):
            found.append(match.group(1))
    return found


def define_recipe(values: FlagValues, recipe: Recipe, argv: Sequence[str]) -> None:
    """Defines a flag for every field of a recipe and every option of its task, model and data.

    Also `--needs.NAME` for the recipe of a run that is needed, empty for none, and
    `--phase.NAME.FIELD` for every field that a phase sets, and for its length.
    """
    recipe.import_modules()
    meanings = descriptions(Recipe)
    for name, kind in _FIELDS.items():
        define_one(values, name, getattr(recipe, name), meanings[name], kind)
    for component in COMPONENTS:
        _define_options(values, recipe, component, argv)
    for name, need in recipe.needs.items():
        meaning = "Recipe of a run that is trained first; empty for none."
        define_one(values, f"needs.{name}", need.recipe.name, meaning)
    for phase in recipe.phases:
        for name, default in _settable(recipe, phase).items():
            meaning = f"In the phase {phase.name}: {meanings[name]}"
            define_one(values, f"phase.{phase.name}.{name}", default, meaning, _FIELDS[name])


def _define_options(
    values: FlagValues, recipe: Recipe, component: str, argv: Sequence[str]
) -> None:
    """Defines the options of the task, the model or the data that the command line names."""
    name = peek(argv, component) or getattr(recipe, component)
    own = getattr(recipe, f"{component}_options")
    documented: type
    if component == "data":
        task = peek(argv, "task") or recipe.task
        documented = _kind_of_data(name, peek(argv, "data_dir"), task)
        defaults = dataclasses.asdict(documented())
        # Other data are prepared as the recipe's are, where they have such an option.
        defaults |= {option: own[option] for option in own.keys() & defaults.keys()}
    elif component == "task":
        documented, defaults = tasks.kind(name), tasks.defaults(name)
    else:
        documented, defaults = type(models.create(name)), models.defaults(name)
    # The recipe's own 0 may stand for 0.0.
    kinds = {option: type(default) for option, default in defaults.items()}
    if name == getattr(recipe, component):
        defaults |= own
    meanings = descriptions(documented)
    for option, default in defaults.items():
        # A model of one's own may have options that no command line can hold.
        if (kind := kinds.get(option)) in _KINDS:
            define_one(values, f"{component}.{option}", default, meanings.get(option, ""), kind)


def _kind_of_data(name: str, data_dir: str | None, task: str) -> type[data.Options]:
    """Which options the data takes; where it is not there yet, those that the task's data takes."""
    try:
        return data.options_kind(name, data_dir)
    except UsageError:
        reads_text = any(data.features.Tokens in kinds for kinds in tasks.kind(task).needs.values())
        return data.TextOptions if reads_text else data.ExampleOptions


def _settable(recipe: Recipe, phase: Phase) -> dict[str, Any]:
    fields = {"num_epochs": recipe.num_epochs, **phase.overrides}
    return {name: value for name, value in fields.items() if name in _FIELDS}


def read_recipe(values: FlagValues, recipe: Recipe) -> Recipe:
    """The recipe with the command line's overrides."""
    fields: dict[str, Any] = {name: values[name].value for name in _FIELDS}
    for component in COMPONENTS:
        prefix, options = f"{component}.", f"{component}_options"
        same = fields[component] == getattr(recipe, component)
        own = getattr(recipe, options) if same else {}
        given = {
            name.removeprefix(prefix): values[name] for name in values if name.startswith(prefix)
        }
        # What neither the recipe nor the command line sets is left to the dataset's facts.
        fields[options] = own | {
            option: flag.value
            for option, flag in given.items()
            if flag.present or option in own or component == "data"
        }
    fields["needs"] = {
        name: _read_need(str(values[f"needs.{name}"].value), need)
        for name, need in recipe.needs.items()
        if values[f"needs.{name}"].value
    }
    fields["phases"] = tuple(_read_phase(values, recipe, phase) for phase in recipe.phases)
    return dataclasses.replace(recipe, **fields)


def _read_need(name: str, need: Need) -> Need:
    return need if name == need.recipe.name else Need(recipes.get(name), need.same_data)


def _read_phase(values: FlagValues, recipe: Recipe, phase: Phase) -> Phase:
    given = {name: values[f"phase.{phase.name}.{name}"] for name in _settable(recipe, phase)}
    changed = {
        name: flag.value for name, flag in given.items() if name in phase.overrides or flag.present
    }
    return Phase(phase.name, {**phase.overrides, **changed})


def open_run(values: FlagValues, directory: pathlib.Path, **more: Any) -> Run:
    """A run, opened again as the flags of `define_run` say."""
    settings = Settings(data_dir=values.data_dir, kernels=values.kernels, **more)
    return Run(directory, settings, values.data)
