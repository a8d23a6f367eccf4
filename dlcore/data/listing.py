"""What lies in a folder of one's own, and what of it is not read."""

import functools
import logging
import pathlib
from collections.abc import Collection, Iterable

from dlcore.errors import some

_log = logging.getLogger(__name__)


def visible(folder: pathlib.Path) -> list[pathlib.Path]:
    """The entries of a folder in the order of their names; hidden ones do not count."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def files(folder: pathlib.Path, suffixes: Collection[str]) -> list[pathlib.Path]:
    """The visible files of a folder with one of these suffixes, in lower or upper case."""
    # Only what is a file, or a link to one, can be opened without waiting for whoever writes it.
    return [path for path in visible(folder) if path.suffix.lower() in suffixes and path.is_file()]


def folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The visible folders in a folder by their names."""
    return {path.name: path for path in visible(folder) if path.is_dir()}


def report_rest(
    root: pathlib.Path, opened: Iterable[pathlib.Path], used: Iterable[pathlib.Path]
) -> None:
    """Says in one line what of the opened folders below `root` is not used, once a process."""
    known = {*opened, *used}
    rest = [path for folder in opened for path in visible(folder) if path not in known]
    if rest:
        names = [f"{path.relative_to(root)}{'/' if path.is_dir() else ''}" for path in rest]
        _say(f"{root}: not read: {some(names)} ({len(rest)} in all)")


@functools.cache
def _say(line: str) -> None:
    # The phases of a training open the same data again.
    _log.warning("%s", line)
