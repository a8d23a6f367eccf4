"""Decoded features kept in the user's cache directory, so that a second start need not decode."""

import hashlib
import json
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dlcore.data.sources import Columns, Names
from dlcore.data.values import Parts

# Raised when what is stored changes its meaning.
_FORMAT = 2
_OF_FILES = "files"


def fingerprint(directory: pathlib.Path) -> str:
    """A hash of the names, sizes and modification times of the files below a folder."""
    files = [
        (str(path.relative_to(directory)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256(json.dumps([_FORMAT, files]).encode()).hexdigest()


def cached(
    directory: pathlib.Path,
    split: str,
    settings: Iterable[object],
    files: str,
    names: Names,
    make: Callable[[Names], Columns],
) -> Columns:
    """What `make` returned before for the same features of the same files, or returns now.

    Args:
      directory: where the dataset lies.
      split: of the dataset.
      settings: what else decides on what is read, as the features with their shapes.
      files: the directory's fingerprint; one that has changed makes the arrays anew.
      names: of features; each has a file of its own.
      make: reads those of them that are not there. Python objects are read anew each time.
    """
    directory = directory.resolve()
    made_by = [str(directory), split, *map(str, settings)]

    def path(name: str) -> pathlib.Path:
        key = hashlib.sha256(json.dumps([*made_by, name]).encode()).hexdigest()[:16]
        plain = re.sub(r"\W", "_", name)
        return _root() / "-".join((*directory.parts[-2:], split, plain, f"{key}.npz"))

    found = {name: parts for name in names if (parts := _read(path(name), files))}
    missing = [name for name in names if name not in found]
    if missing:
        made = make(missing)
        found |= made
        for name, parts in made.items():
            if all(array.dtype != object for array in parts.values()):
                _try_to_write(path(name), files, parts)
    return found


def _read(path: pathlib.Path, files: str) -> Parts | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            if kept[_OF_FILES].item() == files:
                # The first letter keeps a part without a name from having none here either.
                return {name[1:]: kept[name] for name in kept.files if name != _OF_FILES}
    except FileNotFoundError:
        pass
    except Exception as error:  # A damaged archive raises many kinds; the data are still there.
        logging.warning("the cache file %s is unreadable and is made anew: %s", path, error)
    return None


def _root() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return pathlib.Path(base or "~/.cache").expanduser() / "dlcore"


def _try_to_write(path: pathlib.Path, files: str, parts: Parts) -> None:
    try:
        _write(path, files, parts)
    except OSError as error:
        logging.warning("decoded data is not cached in %s: %s", path.parent, error)


def _write(path: pathlib.Path, files: str, parts: Parts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another process may read or write the same file: it appears whole or not at all.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        temporary = pathlib.Path(file.name)
        try:
            arrays: dict[str, Any] = {f"_{part}": array for part, array in parts.items()}
            np.savez(file, allow_pickle=False, **{_OF_FILES: np.array(files)}, **arrays)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
