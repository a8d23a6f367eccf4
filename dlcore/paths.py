"""Paths that a user names: of files on this machine, and of the cache; and how they are written."""

import contextlib
import errno
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

from dlcore.errors import UsageError

# As in gs://bucket or, as pathlib writes it, gs:/bucket; one letter is no scheme.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local(name: str | os.PathLike[str], field: str) -> pathlib.Path:
    """A path with the home directory in the place of `~`.

    Args:
      name: as the user gave it.
      field: what it was given as, for the message.

    Raises:
      UsageError: it is empty or an address elsewhere (`gs://`, `s3://`), `~` stands for no
        directory, or there can be nothing of that name: it is too long, a part of it is a file, or
        a directory on the way may not be entered.
    """
    word = os.fspath(name)
    if not word:
        raise UsageError(f"{field}= is empty: name a path")
    if scheme := _SCHEME.match(word):
        raise UsageError(
            f"{field}={word}: {scheme[1]}:// is not supported: name a path on this machine, such as"
            " one where that storage is mounted"
        )
    try:
        path = pathlib.Path(word).expanduser()
    except RuntimeError as error:
        user = pathlib.Path(word).parts[0]
        raise UsageError(
            f"{field}={word}: {user} has no home directory here: write the path in full"
        ) from error
    try:
        path.stat()
    except FileNotFoundError:
        pass  # Who needs it says so.
    except OSError as error:
        raise UsageError(f"{field}={_short(word)}: {_reason(error)}") from error
    except ValueError as error:
        raise UsageError(f"{field}={word!r}: {error}") from error
    return path


def directory(name: str | os.PathLike[str], field: str) -> pathlib.Path:
    """As `local`, of a directory, whether it is there or not.

    Raises:
      UsageError: see `local`; or it is a file.
    """
    path = local(name, field)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{field}={path} is a file: name a directory")
    return path


def to_write(name: str | os.PathLike[str], field: str) -> pathlib.Path:
    """As `directory`, of one that will be written into, and is made where it is not there.

    Nothing is made yet.

    Raises:
      UsageError: see `directory`; or nothing can be made there.
    """
    path = directory(name, field)
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(
            f"{field}={path} cannot be written: in {there} no file can be made ({_reason(error)})"
        ) from error
    return path


def absolute(path: pathlib.Path) -> pathlib.Path:
    """The path from the root of what is there, through the links that it was named by.

    What a link stands for may be another place on another machine, or tomorrow.
    """
    plain = pathlib.Path(os.path.normpath(path.absolute()))
    # A link is followed before `..` behind it is.
    return plain if plain.exists() and plain.samefile(path) else path.resolve()


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Names the file in the system's errors, which do so only where it could not be opened."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all; one that is there is replaced.

    Raises:
      OSError: it cannot be written, as where the disk is full.
    """
    part = path.with_name(path.name + ".part")
    try:
        with writing(path):
            part.write_bytes(content)
            part.replace(path)
    finally:
        with contextlib.suppress(OSError):  # Where it cannot be made, it is not there.
            part.unlink()


def _reason(error: OSError) -> str:
    """Why the system refuses a path."""
    if error.errno == errno.ENOTDIR:
        return "a part of it is a file, where a directory is needed"
    return f"{error.strerror}"


def _short(word: str) -> str:
    """A name that a line has room for."""
    return word if len(word) <= 200 else f"{word[:100]}...{word[-20:]}"


def cache() -> pathlib.Path | None:
    """The directory for what can be made again; None where the user has no home directory."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return pathlib.Path(base).expanduser() / "dlcore"
    except RuntimeError:
        return None
