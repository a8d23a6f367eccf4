"""How a process ends that native code aborts."""

import signal

import pytest

from tests import children

PROGRAM = """
import ctypes, os, sys, time
from dlcore import aborts

def end():
    {end}

aborts.translate(end)
library = ctypes.CDLL(None)
{lines}
"""
EXIT = "print('error: one line', file=sys.stderr, flush=True); os._exit(1)"
LOSSES = (
    "F0000 client.h:86] Terminating process because the JAX distributed service detected fatal"
    " errors. This most likely",
    "terminate called after throwing an instance of 'gloo::EnforceNotMet'",
)


def run(directory, *lines, end=EXIT):
    program = PROGRAM.format(end=end, lines="\n".join(lines))
    with children.running(directory, ("-c", program)) as (child,):
        return child.exit_code(), child.output


def write(text):
    return f"os.write(2, {(text + chr(10)).encode()!r})"


def test_the_loss_of_another_process_is_one_line_whatever_was_written_just_before(tmp_path):
    for loss in LOSSES:
        before = write("E0000 polled an error")
        code, output = run(tmp_path, before, write(loss), "library.abort()")
        assert (code, output) == (1, "error: one line\n"), loss


def test_what_else_native_code_says_is_shown_and_what_python_says_at_once(tmp_path):
    lines = (write("W0000 slow compilation"), "print('ours', file=sys.stderr)", "time.sleep(2)")
    code, output = run(tmp_path, *lines)
    assert code == 0
    assert output == "ours\nW0000 slow compilation\n"


def test_what_native_code_says_last_is_shown_where_a_process_ends_as_usual(tmp_path):
    assert run(tmp_path, write("W0000 a last word")) == (0, "W0000 a last word\n")


def test_a_process_that_ends_already_keeps_its_own_line_and_code(tmp_path):
    lines = (write(LOSSES[0]), "print('error: mine', file=sys.stderr)", "time.sleep(1)")
    code, output = run(tmp_path, *lines, "os._exit(2)", end="time.sleep(60)")
    assert (code, output) == (2, "error: mine\n")


@pytest.mark.slow
def test_any_other_abort_is_one_with_its_message(tmp_path):
    code, output = run(tmp_path, write("F0000 Check failed: 1 == 2"), "library.abort()")
    assert code == -signal.SIGABRT
    assert output == "F0000 Check failed: 1 == 2\n"
