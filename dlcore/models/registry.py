"""The registry of models: every architecture by name, with the facts its test checks.

Each model file calls `register` once per name. The sweep in `tests/dlcore/models/test_registry.py`
then holds every entry to its declared parameter count, output shape and gradient flow.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from dlcore.registry import Registry


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


_entries: Registry[Entry] = Registry("model")
names, entry = _entries.names, _entries.get


def register(name: str, constructor: Callable[..., nn.Module], **facts: Any) -> None:
    """Adds a model; the keywords are the remaining fields of `Entry`.

    Raises:
      ValueError: the name is taken.
    """
    _entries.add(name, Entry(name=name, constructor=constructor, **facts))


def create(name: str, **overrides: Any) -> nn.Module:
    """The Linen module of that name, with some of its fields overridden.

    Raises:
      UsageError: no such model, or the model has no such field.
    """
    _entries.check_options(name, overrides, defaults(name))
    return entry(name).constructor(**overrides)


def defaults(name: str) -> dict[str, Any]:
    """The options of a model and their defaults, in the order of the module's fields."""
    module = entry(name).constructor()
    return {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name")
    }
