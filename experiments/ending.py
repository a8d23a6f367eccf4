"""How a program ends: with an exit code, and where it failed with one line that says why.

Exit codes: 0 done, 1 the work failed, 2 the command or its input is wrong.
"""

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

import jax
from absl import logging as absl_logging
from absl.flags import FlagValues

from dlcore import processes
from dlcore.errors import TrainingError, UsageError
from dlcore.train.recipe import COMPONENTS


def guarded(main: Callable[[FlagValues], int | None], values: FlagValues) -> int | None:
    """Calls a program; returns its exit code, or ends it where it fails."""
    # In the place of absl's handler, which `basicConfig` would close, and its stream with it.
    logging.getLogger().handlers[:] = [logging.StreamHandler()]
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("dlcore").setLevel(logging.INFO)
    # Orbax and TFDS tell of their inner life as warnings, and print errors that they raise too.
    absl_logging.set_verbosity(absl_logging.FATAL)
    # Where a checkpoint cannot be written, so do the threads that were still writing it.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _pass_over_closed_loops
    try:
        return main(values)
    except UsageError as error:
        fail(error, 2, values)
    except TrainingError as error:
        fail(error, 1, values)
    except OSError as error:  # A full disk: the paths that a user names are checked before.
        file = f"{error.filename}: " if error.filename else ""
        fail(f"{file}{error.strerror or error}", 1, values)
    except Exception as error:
        if _lacks_memory(error):
            fail(f"there is not enough memory: {error}", 1, values)
        _check_platform(values)
        if jax.distributed.is_initialized():
            processes.abandon(error)
        raise


def _pass_over_closed_loops(unraisable: "sys.UnraisableHookArgs") -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _lacks_memory(error: Exception) -> bool:
    of_device = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return of_device or isinstance(error, MemoryError)


def _check_platform(values: FlagValues) -> None:
    """Ends the program in one line where JAX_PLATFORMS asks for devices that are not there."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # JAX raises the second where it knows no backend.
        named = os.environ.get("JAX_PLATFORMS", "")
        fail(f"JAX_PLATFORMS={named}: JAX finds none here: set what is there, as cpu", 2, values)


def fail(error: Exception | str, code: int, values: FlagValues) -> NoReturn:
    """Prints why the program failed, in one line, and ends it with an exit code."""
    line = " ".join(str(error).split())
    # absl's errors speak of flags, and the system's of files.
    if isinstance(error, UsageError | TrainingError):
        line = _with_dashes(line, values)
    several = jax.distributed.is_initialized()
    if several:
        processes.claim_last_words()
    print(f"error: {line}", file=sys.stderr, flush=True)
    if several:
        processes.leave(code)
    sys.exit(code)


# How a line of the library names a field: `patience=7` anywhere, `patience is 7` or `augment has
# flip` at the beginning, and anywhere a name that no word of prose looks like. Names in a row are
# what one may choose from.
_MENTION = re.compile(
    r"(?P<row>\w+(?:, \w+){2,})"
    r"|(?<![^\s(])(?:[a-z][\w.]*(?==)|[a-z]\w*[_.][\w.]*\w(?![\w/]))"
    r"|^[a-z]\w*(?= (?:is|has) )"
)


def _with_dashes(line: str, values: FlagValues) -> str:
    """The library's line, which names fields (`batch_size=7`), as one that names flags."""
    # A line that is about one phase, or about a needed run, begins with its name.
    part = line.partition(": ")[0]
    if part.startswith("needs."):
        # The fields of another recipe are no flags here.
        return f"--{line}" if part in values else line

    def flag(match: re.Match[str]) -> str:
        name = match.group()
        if match["row"]:
            return name
        for field in (f"{part}.{name}", name):
            if field in values:
                return f"--{field}"
        options = [f"{component}.{name}" for component in COMPONENTS]
        known = [option for option in options if option in values]
        # An option that two components have is left as it is.
        return f"--{known[0]}" if len(known) == 1 else name

    return _MENTION.sub(flag, line)
