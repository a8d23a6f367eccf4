"""Datasets that are made by a function: those that are bundled or drawn, and a user's own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dlcore.data.dataset import Dataset
from dlcore.data.options import ExampleOptions, Options
from dlcore.registry import Registry

# What is bundled or drawn, by the module that registers it.
_MODULES = {
    "bundled": ("breast_cancer", "diabetes", "digits", "digits_segments", "iris", "wine"),
    "synthetic": ("synthetic",),
}


class Entry(NamedTuple):
    """A dataset by name.

    Attributes:
      make: `(name, options) -> Dataset`; raises UsageError where an option does not fit it.
      options_kind: what `options` is.
    """

    make: Callable[[str, Any], Dataset]
    options_kind: type[Options]


_datasets: Registry[Entry] = Registry("dataset", "dlcore.data", _MODULES)
names, entry = _datasets.names, _datasets.get


def register(
    name: str,
    function: Callable[[str, Any], Dataset],
    options_kind: type[Options] = ExampleOptions,
) -> None:
    """Makes a dataset known by name to `load`, and so to every recipe.

    Args:
      name: what a recipe calls it.
      function: `(name, options) -> Dataset`. `from_arrays` makes one of arrays, and `load` of what
        TFDS has prepared.
      options_kind: what its options are: `ExampleOptions`, `TextOptions`, or a subclass with
        options of its own.

    Raises:
      ValueError: the name is taken.
    """
    _datasets.add(name, Entry(function, options_kind))


def complete_options[Kind: Options](
    kind: type[Kind], given: Mapping[str, Any] | Options | None, name: str
) -> Kind:
    """The options of that kind, with defaults for what is not given.

    Args:
      kind: what the dataset takes.
      given: by name; or of that kind already; or of the base alone.
      name: of the dataset.

    Raises:
      UsageError: the dataset has no such option, or a value is out of its range.
    """
    if isinstance(given, kind):
        return given
    options = dataclasses.asdict(given) if isinstance(given, Options) else dict(given or {})
    _datasets.check_options(name, options, [field.name for field in dataclasses.fields(kind)])
    return kind(**options)
