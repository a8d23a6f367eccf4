"""Things by name: models, tasks, evaluators, recipes and studies are each kept in one of these.

A module registers what it defines when it is imported. What dlcore itself defines is listed
beforehand, by module, so that names are known while nothing is imported: a module is imported when
one of its names is asked for. A user's own module only has to be imported.
"""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from dlcore.errors import UsageError


class Registry[Thing]:
    """Things by name.

    Args:
      kind: what they are, for messages: "model".
      package: the package whose modules register things.
      modules: the names that each of its modules registers, by the module's own name.
    """

    def __init__(
        self, kind: str, package: str = "", modules: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        self._kind, self._package = kind, package
        self._module = {name: module for module, own in (modules or {}).items() for name in own}
        self._things: dict[str, Thing] = {}

    def add(self, name: str, thing: Thing) -> None:
        """Adds a thing.

        Raises:
          ValueError: the name is taken. Two things under one name are a bug, found at import.
        """
        if name in self._things:
            raise ValueError(f"{self._kind} {name!r} is registered twice")
        self._things[name] = thing

    def names(self) -> list[str]:
        """Every name, sorted; nothing is imported."""
        return sorted(self._module.keys() | self._things.keys())

    def listed(self) -> list[str]:
        """The names that were listed beforehand, sorted: without a user's own."""
        return sorted(self._module)

    def get(self, name: str) -> Thing:
        """The thing of a name; the module that registers it is imported.

        Raises:
          UsageError: there is none; near matches are named, or all names where none is near.
        """
        if name not in self._things:
            if name not in self._module:
                near = ", ".join(difflib.get_close_matches(name, self.names(), n=3))
                raise UsageError(
                    f"unknown {self._kind} {name!r}: "
                    + (
                        f"did you mean {near}?"
                        if near
                        else f"it is one of {', '.join(self.names())}"
                    )
                )
            importlib.import_module(f"{self._package}.{self._module[name]}")
        return self._things[name]

    def check_options(self, name: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
        """Raises UsageError for an option that a thing does not have."""
        known = list(known)
        for option in given:
            if option not in known:
                raise UsageError(
                    f"{self._kind} {name!r} has no option {option!r}: "
                    f"it has {', '.join(known) or 'none'}"
                )


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a recipe can hold; a model's function or array is its own affair."""
    return {name: value for name, value in options.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
