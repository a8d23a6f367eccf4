"""How the processes of a run meet and part; whole trainings are in the tests of the programs."""

import re

import pytest

from dlcore import processes
from dlcore.errors import UsageError
from tests import children


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":99", "localhost:port"])
def test_an_address_without_a_host_or_a_port_is_refused(address):
    with pytest.raises(UsageError, match=f"^coordinator_address={address}: it is HOST:PORT$"):
        processes.start(address, 2, 0)


def program(*lines):
    return "-c", "\n".join(("import time", "from dlcore import processes", *lines))


def start(port, process_id):
    return f"processes.start('localhost:{port}', 2, {process_id})"


@pytest.mark.parametrize("process_id", [0, 1])
def test_a_process_whose_peers_do_not_come_ends_with_a_line_about_its_arguments(
    tmp_path, process_id
):
    words = program("processes.START_TIMEOUT_SECONDS = 1", start(children.free_port(), process_id))
    with children.running(tmp_path, words) as (child,):
        assert child.exit_code() == 1
    (line,) = re.findall("^error: .*", child.output, re.MULTILINE)
    assert line.startswith("error: the processes of this run did not meet within 1 s: start each")
    assert "its own process_id" in line


def test_all_processes_have_the_answer_of_the_first(tmp_path):
    port = children.free_port()
    words = [
        program(start(port, index), f"print(f'answer {{processes.first_says({answer})}}')")
        for index, answer in enumerate((False, True))
    ]
    with children.running(tmp_path, *words) as both:
        for child in both:
            assert child.exit_code() == 0
            assert "answer False" in child.output


@pytest.mark.slow
def test_they_may_come_to_their_first_step_half_a_minute_apart(tmp_path):
    port = children.free_port()
    words = [
        program(
            start(port, index),
            "from dlcore import parallel",
            "import numpy as np",
            "layout = parallel.make('data')",
            f"time.sleep({35 * index})",
            "step = layout.compile_evaluation(lambda s, b, n: parallel.psum(b['x'].sum()), {})",
            "print('sum', float(step({}, layout.place_batch({'x': np.ones(2)}), 0)))",
        )
        for index in range(2)
    ]
    with children.running(tmp_path, *words, devices=2) as both:
        for child in both:
            assert child.exit_code() == 0, child.output
            assert "sum 4.0" in child.output


def test_processes_that_fail_together_each_end_with_their_own_code(tmp_path):
    port = children.free_port()
    words = [
        program(start(port, index), "print('last words')", f"processes.leave({2 + index})")
        for index in range(2)
    ]
    with children.running(tmp_path, *words) as both:
        assert [child.exit_code() for child in both] == [2, 3]
        assert all("last words" in child.output for child in both)


def test_one_that_fails_alone_does_not_wait_for_another_that_goes_on(tmp_path):
    port = children.free_port()
    leaver = program(start(port, 1), "processes.leave(2)")
    worker = program(start(port, 0), "print('works', flush=True)", "time.sleep(600)")
    with children.running(tmp_path, worker, leaver) as (working, leaving):
        assert leaving.exit_code() == 2
        # Long before the other one notices.
        working.wait_until(lambda: "works" in working.output)
