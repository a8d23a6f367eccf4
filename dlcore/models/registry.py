"""The registry of models: every architecture by name, with the facts its test checks.

Each model file calls `register` once per name. The sweep in `tests/dlcore/models/test_registry.py`
then holds every entry to its declared parameter count, output shape and gradient flow.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from dlcore.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a model.

    Attributes:
      name: the registry's name, as `--model` takes it.
      constructor: a Linen module class, or a `functools.partial` of one that fixes its fields.
      example_inputs: shapes and dtypes of the positional inputs of `__call__`, batch axis first.
      output_shapes: the shapes that `__call__` returns for them, as a pytree of tuples (a tuple of
        integers is one shape).
      parameter_count: exact number of trainable parameters at the default options.
      source: the paper or program that the layout comes from (author, year, table or figure).
      without_gradient: parameter paths ("Dense_0/bias") that rightly get no gradient at
        initialisation, each with the reason.
    """

    name: str
    constructor: Callable[..., nn.Module]
    example_inputs: tuple[jax.ShapeDtypeStruct, ...]
    output_shapes: Any
    parameter_count: int
    source: str
    without_gradient: Mapping[str, str] = dataclasses.field(default_factory=dict)


_entries: dict[str, Entry] = {}


def register(name: str, constructor: Callable[..., nn.Module], **facts: Any) -> None:
    """Adds a model; the keywords are the remaining fields of `Entry`.

    Raises:
      ValueError: the name is taken. Two models under one name are a bug, found at import.
    """
    if name in _entries:
        raise ValueError(f"model {name!r} is registered twice")
    _entries[name] = Entry(name=name, constructor=constructor, **facts)


def names() -> list[str]:
    """Every registered name, sorted."""
    return sorted(_entries)


def entry(name: str) -> Entry:
    """The entry of a name.

    Raises:
      UsageError: no such model; near matches are named.
    """
    if name not in _entries:
        near = difflib.get_close_matches(name, _entries, n=3) or names()
        raise UsageError(f"unknown model {name!r}: did you mean {', '.join(near)}?")
    return _entries[name]


def create(name: str, **overrides: Any) -> nn.Module:
    """The Linen module of that name, with some of its fields overridden.

    Raises:
      UsageError: no such model, or the model has no such field.
    """
    known = defaults(name)
    for option in overrides:
        if option not in known:
            raise UsageError(
                f"model {name!r} has no option {option!r}: it has {', '.join(known) or 'none'}"
            )
    return entry(name).constructor(**overrides)


def defaults(name: str) -> dict[str, Any]:
    """The options of a model and their defaults, in the order of the module's fields."""
    module = entry(name).constructor()
    hidden = ("parent", "name")
    return {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in hidden
    }
