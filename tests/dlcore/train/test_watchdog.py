"""What ends a training from outside: too long without progress, a lost process, a signal."""

import os
import signal
import threading
import time

import jax
import pytest

from dlcore import processes
from dlcore.errors import TrainingError, UsageError
from dlcore.train.watchdog import StopSignal, Watchdog
from tests import children

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _in_a_terminal():
    """Where the tests outlive theirs, they were started with this signal ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class LeftError(Exception):
    """Stands in for the end of the process."""


@pytest.fixture
def _one_of_two(monkeypatch):
    """As if this were process 0 of two, and could not end."""

    def leave(code):
        raise LeftError(code)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "leave", leave)


def fail_at_step_12(error):
    with Watchdog(60) as watchdog:
        watchdog.progress("step 12")
        raise error


def run(directory, *lines):
    """Exit code and output of a program of those lines, with a watchdog at hand."""
    program = "\n".join(("import time", "from dlcore.train.watchdog import Watchdog", *lines))
    with children.running(directory, ("-c", program)) as (child,):
        return child.exit_code(), child.output


def test_a_training_without_progress_is_ended_with_a_line_that_says_where_it_stood(tmp_path):
    code, output = run(
        tmp_path,
        "with Watchdog(0.5, 'Do it again.') as watchdog:",
        "    watchdog.progress('step 12')",
        "    time.sleep(600)",
    )
    assert code == 1
    assert output.strip() == (
        "error: at step 12: no progress for 0.5 s; step_timeout sets the limit. Do it again."
    )


def test_progress_patience_and_the_end_of_the_training_keep_it_quiet(tmp_path):
    code, output = run(
        tmp_path,
        "with Watchdog(1) as closed:",
        "    closed.progress('the end')",
        "with Watchdog(1) as unused, Watchdog(1) as patient, Watchdog(3) as moving:",
        "    patient.progress('a compilation', 1000)",
        "    for step in range(9):",
        "        moving.progress(f'step {step}')",
        "        time.sleep(0.5)",
        "print('done')",
    )
    assert (code, output) == (0, "done\n")


def test_time_in_which_the_process_did_not_run_is_no_stall(tmp_path):
    program = """
import time
from dlcore.train.watchdog import Watchdog
with Watchdog(1) as watchdog:
    print("begun", flush=True)
    for _ in range(20):
        watchdog.progress("a step")
        time.sleep(0.1)
"""
    with children.running(tmp_path, ("-c", program)) as (child,):
        child.wait_until(lambda: "begun" in child.output)
        child.send(signal.SIGSTOP)
        time.sleep(2.5)
        child.send(signal.SIGCONT)
        assert (child.exit_code(), child.output) == (0, "begun\n")


def test_without_a_limit_nothing_is_watched():
    before = threading.active_count()
    with Watchdog(0) as watchdog:
        watchdog.progress("step 1")
        assert threading.active_count() == before


@pytest.mark.usefixtures("_one_of_two")
def test_a_lost_process_is_named_in_one_line(capsys):
    lost = jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection reset\nmore")
    with pytest.raises(LeftError, match="1"):
        fail_at_step_12(lost)
    assert capsys.readouterr().err == (
        "\nerror: at step 12: another process of this run died or left: start all of them again "
        "(UNKNOWN: Gloo all-reduce failed: Connection reset)\n"
    )


@pytest.mark.usefixtures("_one_of_two")
def test_a_failing_system_call_is_named_in_one_line(capsys):
    full = OSError(28, "No space left on device", "runs/a/metrics.jsonl")
    with pytest.raises(LeftError, match="1"):
        fail_at_step_12(full)
    errors = capsys.readouterr().err
    assert errors.startswith("\nerror: at step 12: [Errno 28] No space left on device")
    assert errors.count("\n") == 2


@pytest.mark.usefixtures("_one_of_two")
@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("a bug"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")],
)
def test_one_of_several_processes_does_not_wait_for_the_others_to_tell_of_a_bug(capsys, error):
    with pytest.raises(LeftError, match="1"):
        fail_at_step_12(error)
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback")
    assert str(error) in errors
    assert "another process" not in errors


@pytest.mark.usefixtures("_one_of_two")
@pytest.mark.parametrize("error", [TrainingError("not finite"), UsageError("too small")])
def test_what_all_processes_find_wrong_goes_the_usual_way(capsys, error):
    with pytest.raises(type(error)):
        fail_at_step_12(error)
    assert not capsys.readouterr().err


def test_a_single_process_lets_every_error_through(capsys):
    with pytest.raises(ZeroDivisionError):
        fail_at_step_12(ZeroDivisionError())
    assert not capsys.readouterr().err


# Signals.


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request_to_stop_and_nothing_else(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested(1)
        os.kill(os.getpid(), number)
        assert stop.requested(2)
        assert stop.requested(3)
        assert stop.name == number.name
    assert signal.getsignal(number) is before


def test_the_first_signal_counts_and_further_ones_do_not_end_what_is_being_saved():
    with StopSignal() as stop:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.name == "SIGINT"


def test_a_training_that_is_to_outlive_its_terminal_does():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested(1)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_one_of_two")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_of_several_processes_one_passes_a_signal_on_as_the_one_that_stops_all(number):
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append("SIGTERM"))
    try:
        with StopSignal():
            os.kill(os.getpid(), number)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == ["SIGTERM"]


def test_the_handlers_are_put_back_whatever_happens():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), StopSignal():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_signals_are_left_alone():
    answers = []

    def train():
        with StopSignal() as stop:
            answers.append(stop.requested(1))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert answers == [False]
