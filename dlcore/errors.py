"""The exceptions that mean something to the caller, and what their messages share."""

import contextlib
from collections.abc import Iterator, Sequence


class UsageError(ValueError):
    """Bad input: a flag, file or dataset that the caller can put right.

    The message is one line that names what is wrong and what would be right. The programs in
    `experiments` print it without a traceback and exit with code 2.
    """


class TrainingError(RuntimeError):
    """A training that cannot go on: non-finite numbers, a stuck step, a lost peer.

    The message is one line that names the step and what to resume from. The programs in
    `experiments` print it without a traceback and exit with code 1.
    """


class NotFiniteError(TrainingError):
    """A training whose loss or gradient is not finite: it diverged."""


def some(items: Sequence[str], most: int = 3) -> str:
    """The first few of many names, for a message."""
    return ", ".join(items[:most]) + (", ..." if len(items) > most else "")


@contextlib.contextmanager
def about(part: str) -> Iterator[None]:
    """Says at the head of an error which part of a recipe it is about."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{part}: {error}") from error
