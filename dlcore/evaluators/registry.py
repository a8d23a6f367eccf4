"""Evaluators by name, and the words in which a recipe chooses them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dlcore import words
from dlcore.errors import UsageError
from dlcore.evaluators.evaluator import Evaluator
from dlcore.registry import Registry

_evaluators: Registry[type[Evaluator]] = Registry(
    "evaluator",
    "dlcore.evaluators",
    {
        name: [name]
        for name in (
            "continuation",
            "filters",
            "judged_samples",
            "learning_curves",
            "predictions",
            "roc",
            "samples",
            "shift_tolerance",
        )
    },
)
register, names, kind = _evaluators.add, _evaluators.names, _evaluators.get

# What an option takes, by the type of its default.
_TAKES = {bool: "true or false", int: "an integer", float: "a number", str: "a word"}
# What every run is shown by.
DEFAULTS = ("learning_curves", "filters")


def create(name: str, **options: Any) -> Evaluator:
    """The evaluator of that name.

    Raises:
      UsageError: no such evaluator, or it has no such option, or an option's value is out of range.
    """
    known = {field.name: field.default for field in dataclasses.fields(kind(name))}
    _evaluators.check_options(name, options, known)
    for option, value in options.items():
        number = isinstance(value, int) and not isinstance(value, bool)
        own: Any = type(known[option])
        if type(value) is not own and not (own is float and number):
            raise UsageError(f"evaluator {name!r}: {option}={value}: it takes {_TAKES[own]}")
    try:
        return kind(name)(**options)
    except UsageError as error:
        raise UsageError(f"evaluator {name!r}: {error}") from error


def choose(defaults: Sequence[str], chosen: str) -> dict[str, Evaluator]:
    """The evaluators of a recipe by name: those of every run and of its task, less and more.

    Args:
      defaults: of the task.
      chosen: the recipe's words: NAME or NAME:option=value,... adds one, or sets the options of one
        that is there; -NAME drops one.

    Raises:
      UsageError: an unknown name or option, or one is dropped that is not there.
    """
    options: dict[str, dict[str, Any]] = {name: {} for name in (*DEFAULTS, *defaults)}
    for word, settings in words.parse(chosen, "evaluators"):
        if not word.startswith("-"):
            options[word] = settings
        elif options.pop(word[1:], None) is None:
            raise UsageError(
                f"evaluators={chosen}: {word!r} drops what is not there: there are "
                f"{', '.join(options)}"
            )
    return {name: create(name, **own) for name, own in options.items()}
