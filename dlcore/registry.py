"""Things by name: the models, the tasks and the recipes are each kept in one of these."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from dlcore.errors import UsageError


class Registry[Thing]:
    """Things by name.

    Args:
      kind: what they are, for messages: "model".
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
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
        """Every name, sorted."""
        return sorted(self._things)

    def get(self, name: str) -> Thing:
        """The thing of a name.

        Raises:
          UsageError: there is none; near matches are named, or all names where none is near.
        """
        if name not in self._things:
            near = difflib.get_close_matches(name, self._things, n=3) or self.names()
            raise UsageError(f"unknown {self._kind} {name!r}: did you mean {', '.join(near)}?")
        return self._things[name]

    def check_options(self, name: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
        """Raises UsageError for an option that a thing does not have, or that no thing can use.

        No range of numbers has NaN or infinity in it: so nobody else need think of them.
        """
        known = list(known)
        for option, value in given.items():
            if option not in known:
                raise UsageError(
                    f"{self._kind} {name!r} has no option {option!r}: "
                    f"it has {', '.join(known) or 'none'}"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{option} is {value}: it must be a finite number")
