"""Tables: numbers as a program prints them, and the README's generated ones."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dlcore.errors import UsageError


def scalars(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are single numbers, as Python's own."""
    return {name: np.asarray(value).item() for name, value in values.items() if not np.ndim(value)}


def aligned(rows: Mapping[str, Any]) -> str:
    """Names and values in two aligned columns; floats with four decimals."""
    width = max(map(len, rows))
    shown = {
        name: f"{value:.4f}" if isinstance(value, float) else str(value)
        for name, value in rows.items()
    }
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in shown.items())


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return "\n".join([first, "|---" * len(header) + "|", *others])


def marks(name: str) -> tuple[str, str]:
    """The comments between which the README has a generated table."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def check(readme: pathlib.Path, name: str) -> str:
    """The README's text, which has a place for the table of that name.

    Raises:
      UsageError: there is no README, or it lacks the marks.
    """
    if not readme.is_file():
        raise UsageError(f"{readme.parent} is no checkout of dlcore: clone it, and start there")
    text = readme.read_text(encoding="utf-8")
    begin, end = marks(name)
    if begin not in text or end not in text:
        raise UsageError(f"{readme} has no {begin} and {end}: the table goes between them")
    return text


def replace(readme: pathlib.Path, name: str, table: str) -> None:
    """Replaces the table between the marks of that name.

    Raises:
      UsageError: as for `check`.
    """
    text, (begin, end) = check(readme, name), marks(name)
    before, after = text.split(begin)[0], text.split(end)[1]
    readme.write_text("\n".join([before + begin, table, end + after]), encoding="utf-8")
