"""Hashes by which data are known again, wherever they lie and whenever they were written."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from dlcore.errors import UsageError

# Files are hashed whole while each has no more than its share of so many bytes, or than the least
# share: of others it is the beginning, the middle and the end.
_BYTES = 256 * 1024**2
_LEAST = 4096


def of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """A hash of what arrays hold, by name; of Python objects, only of those that are text."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        _add(digest, [name, str(array.dtype), array.shape])
        if array.dtype == object:
            _add(digest, [value for value in array.ravel() if isinstance(value, str)])
        else:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def of_files(files: Iterable[tuple[str, pathlib.Path]]) -> str:
    """A hash of names, sizes and contents of files; of very large sets, of parts of each file.

    Records of hundreds of gigabytes are looked at whenever a training starts. What changes in the
    middle of such a file and leaves its size as it was is not seen.

    Args:
      files: in the order in which they are read, each with a name that does not depend on where the
        data lie.

    Raises:
      UsageError: a file cannot be read.
    """
    digest, every = hashlib.sha256(), list(files)
    share = max(_BYTES // max(len(every), 1), _LEAST)
    for name, path in every:
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                _add(digest, [name, size])
                for part in _parts(file, size, share):
                    digest.update(part)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def of_choice(whole: str, indices: np.ndarray) -> str:
    """A hash of the examples at `indices` `[n]` of what has the fingerprint `whole`."""
    return of_arrays({whole: indices})


def of_words(*words: object) -> str:
    """A hash of what is said by plain data."""
    digest = hashlib.sha256()
    _add(digest, words)
    return digest.hexdigest()


def _parts(file: BinaryIO, size: int, share: int) -> Iterator[bytes]:
    if size <= share:
        yield file.read()
        return
    length = share // 3
    for start in (0, (size - length) // 2, size - length):
        file.seek(start)
        yield file.read(length)


def _add(digest: Any, content: Any) -> None:
    digest.update(json.dumps(content).encode())
