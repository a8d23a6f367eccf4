"""Decoded features kept in the user's cache directory, so that a second start need not decode."""

import hashlib
import json
import logging
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dlcore import paths
from dlcore.data.sources import Columns, Names
from dlcore.data.values import Parts

# Raised when what is stored changes its meaning.
_FORMAT = 3
_OF_FILES = "files"
_PARTIAL = ".partial"
# No writing takes that long: a process that was killed has left the file.
_ABANDONED_SECONDS = 3600.0


def fingerprint(files: Iterable[pathlib.Path]) -> str:
    """A hash of the names, the sizes and the times of change of files, behind links that they are.

    Args:
      files: all that are read, in their order; whatever else lies beside them is no part of it.
    """
    found = [(str(path), path.stat()) for path in files]
    # A file that takes the place of another one may keep its size and its time of modification.
    facts = [
        (name, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for name, status in found
    ]
    return hashlib.sha256(json.dumps([_FORMAT, facts]).encode()).hexdigest()


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
      files: the fingerprint of what is read; one that has changed makes the arrays anew.
      names: of features; each has a file of its own.
      make: reads those of them that are not there. Python objects are read anew each time.
    """
    root = paths.cache()
    if root is None:
        return make(names)
    directory = directory.resolve()
    made_by = [str(directory), split, *map(str, settings)]

    def path(name: str) -> pathlib.Path:
        key = hashlib.sha256(json.dumps([*made_by, name]).encode()).hexdigest()[:16]
        plain = re.sub(r"\W", "_", name)
        # Without the anchor, whose slash would make the name a path at the root.
        last = directory.relative_to(directory.anchor).parts[-2:]
        return root / "-".join((*last, split, plain, f"{key}.npz"))

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


def _try_to_write(path: pathlib.Path, files: str, parts: Parts) -> None:
    try:
        _write(path, files, parts)
    except OSError as error:
        logging.warning("decoded data is not cached in %s: %s", path.parent, error)


def _write(path: pathlib.Path, files: str, parts: Parts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    # Another process may read or write the same file: it appears whole or not at all.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=_PARTIAL, delete=False) as file:
        temporary = pathlib.Path(file.name)
        try:
            arrays: dict[str, Any] = {f"_{part}": array for part, array in parts.items()}
            np.savez(file, allow_pickle=False, **{_OF_FILES: np.array(files)}, **arrays)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _remove_abandoned(directory: pathlib.Path) -> None:
    for path in directory.glob(f"*{_PARTIAL}"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()
        except FileNotFoundError:  # Its owner has finished, or another process was faster.
            pass
