"""Paths that a user names: of files on this machine, and of the cache."""

import os
import pathlib
import re

from dlcore.errors import UsageError

# As in gs://bucket or, as pathlib writes it, gs:/bucket; one letter is no scheme.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local(name: str | os.PathLike[str], field: str) -> pathlib.Path:
    """A path with the home directory in the place of `~`.

    Args:
      name: as the user gave it.
      field: what it was given as, for the message.

    Raises:
      UsageError: it is an address elsewhere (`gs://`, `s3://`), or `~` stands for no directory.
    """
    word = os.fspath(name)
    if scheme := _SCHEME.match(word):
        raise UsageError(
            f"{field}={word}: {scheme[1]}:// is not supported: name a path on this machine, such as"
            " one where that storage is mounted"
        )
    try:
        return pathlib.Path(word).expanduser()
    except RuntimeError as error:
        user = pathlib.Path(word).parts[0]
        raise UsageError(
            f"{field}={word}: {user} has no home directory here: write the path in full"
        ) from error


def cache() -> pathlib.Path | None:
    """The directory for what can be made again; None where the user has no home directory."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return pathlib.Path(base).expanduser() / "dlcore"
    except RuntimeError:
        return None
