"""Decoded images kept in the user's cache directory, so that a second start need not decode."""

import hashlib
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np

from dlcore.data.sources import Arrays

# Raised when what is stored changes its meaning.
_FORMAT = 1


def fingerprint(directory: pathlib.Path) -> str:
    """A hash of the names, sizes and modification times of the files below a folder."""
    files = [
        (str(path.relative_to(directory)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256(json.dumps([_FORMAT, files]).encode()).hexdigest()


def cached(
    directory: pathlib.Path, split: str, resize: int, files: str, make: Callable[[], Arrays]
) -> Arrays:
    """What `make` returned before for the same split of the same files, or what it returns now.

    Args:
      directory: where the dataset lies.
      split: of the dataset.
      resize: the side that images are resized to; 0 where they are not.
      files: the directory's fingerprint; one that has changed makes the arrays anew.
      make: reads the arrays.
    """
    directory = directory.resolve()
    key = hashlib.sha256(json.dumps([str(directory), split, resize]).encode()).hexdigest()
    path = _root() / "-".join((*directory.parts[-2:], split, f"{key[:16]}.npz"))
    try:
        with np.load(path, allow_pickle=False) as stored:
            if stored["files"].item() == files:
                return Arrays(stored["images"], stored["labels"])
    except FileNotFoundError:
        pass
    except Exception as error:  # A damaged archive raises many kinds; the data are still there.
        logging.warning("the cache file %s is unreadable and is made anew: %s", path, error)
    arrays = make()
    try:
        _write(path, files, arrays)
    except OSError as error:
        logging.warning("decoded images are not cached in %s: %s", path.parent, error)
    return arrays


def _root() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return pathlib.Path(base or "~/.cache").expanduser() / "dlcore"


def _write(path: pathlib.Path, files: str, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another process may read or write the same file: it appears whole or not at all.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        temporary = pathlib.Path(file.name)
        try:
            np.savez(file, files=np.array(files), images=arrays.images, labels=arrays.labels)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
