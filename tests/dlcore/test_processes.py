"""How the processes of a run meet and part; whole trainings are in the tests of the programs."""

import errno
import itertools
import json
import os
import re
import signal
import socket
import threading
import time
import types

import pytest

from dlcore import processes
from dlcore.errors import TrainingError, UsageError
from tests import children


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":99", "localhost:port"])
def test_an_address_without_a_host_or_a_port_is_refused(address):
    with pytest.raises(UsageError, match=f"^coordinator_address={address}: it is HOST:PORT$"):
        processes.start(address, 2, 0)


@pytest.mark.parametrize("port", [0, 65536, 99999, 10**20])
def test_a_port_that_there_is_not_is_refused(port):
    with pytest.raises(UsageError, match=f"^coordinator_address=localhost:{port}: its port is to"):
        processes.start(f"localhost:{port}", 2, 0)


def test_where_process_0_cannot_listen_it_says_so_and_does_not_begin():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UsageError, match=r"cannot listen there \(Address already in use\)"):
            processes.start(f"localhost:{port}", 2, 0)
    # An address that is kept for documentation.
    with pytest.raises(UsageError, match=r"192.0.2.1:\d+: process 0 cannot listen there"):
        processes.start(f"192.0.2.1:{port}", 2, 0)
    with pytest.raises(UsageError, match=r"nowhere.invalid:\d+: process 0 cannot listen there"):
        processes.start(f"nowhere.invalid:{port}", 2, 0)


def test_a_long_address_is_one_and_a_machine_without_such_sockets_does_without(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(processes, "_end", lambda *_, **__: ended.set())
    address = f"{'pod.' * 40}local:1234"
    processes._check_alone(address, 0)
    with pytest.raises(UsageError, match="^process_id=0: another process on this machine has this"):
        processes._check_alone(address, 0)
    assert ended.wait(10)

    class Closed(socket.socket):
        def bind(self, address):
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Closed)
    processes._check_alone("localhost:1234", 0)


# Comparisons, with a dictionary in the place of JAX's store.


class Store(dict):
    """What processes share."""

    key_value_set = dict.__setitem__

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.items() if name.startswith(f"{key}/")]


@pytest.fixture
def compare(monkeypatch):
    """`compare(own, *others)`, as process 0 of so many."""

    def call(own, *others, **words):
        told = {f"dlcore/compared/0/{n}": json.dumps(one) for n, one in enumerate(others, 1)}
        state = types.SimpleNamespace(client=Store(told), process_id=0, num_processes=3)
        monkeypatch.setattr(processes.distributed, "global_state", state)
        monkeypatch.setattr(processes, "_numbers", itertools.count())
        processes.compare(own, **words)
        return json.loads(state.client["dlcore/compared/0/0"])

    return call


def test_processes_that_are_alike_go_on(compare):
    own = {"parallelism": "data", "shape": (28, 28), "parts": {"train": 3}}
    told = compare(own, own, own)
    assert told == {**own, "shape": [28, 28]}


def test_the_first_difference_is_named_with_both_processes(compare):
    own = {"parallelism": "data", "dry_run": False}
    for others, message in (
        (({**own, "dry_run": True}, own), "dry_run is False on process 0 and True on process 1"),
        ((own, {**own, "seed": 1}), "seed is absent on process 0 and 1 on process 2"),
        ((own, {"dry_run": False}), "parallelism is data on process 0 and absent on process 2"),
        # Without waiting for those that have not come.
        (({**own, "parallelism": "fsdp"},), "parallelism is data on process 0 and fsdp on"),
    ):
        with pytest.raises(UsageError, match=f"^{message}"):
            compare(own, *others)


def test_many_names_are_told_by_their_beginning_and_compared_to_the_end(compare, monkeypatch):
    names = [f"class {number}" for number in range(10000)]
    own = {"the data's label": {"names": names}}
    # What another process tells is what this one does.
    told = Store()
    state = types.SimpleNamespace(client=told, process_id=0, num_processes=1)
    monkeypatch.setattr(processes.distributed, "global_state", state)
    processes.compare(own)
    (text,) = told.values()
    assert len(text) < 400
    compare(own, json.loads(text), json.loads(text))
    names[-1] = "another"
    with pytest.raises(UsageError, match=r"^the data's label is .*class 1.*\.\.\. \(") as refused:
        compare(own, json.loads(text))
    assert len(str(refused.value)) < 700


def test_at_the_start_one_that_does_not_answer_is_not_waited_for(compare, monkeypatch):
    monkeypatch.setattr(processes, "COMPARISON_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(TrainingError, match="^only 2 of the 3 processes of this run answered"):
        compare({}, {}, at_start=True)


def test_a_process_that_is_alone_has_nothing_to_compare(monkeypatch):
    monkeypatch.setattr(processes, "_numbers", iter(()))  # Who begins a comparison counts it.
    assert processes.distributed.global_state.client is None
    processes.compare({"parallelism": "jit"})


# Real ones.


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


def errors(child):
    return re.findall("^error: .*", child.output, re.MULTILINE)


@pytest.mark.slow
def test_processes_that_differ_name_the_difference_and_end(tmp_path):
    devices = "import os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=%d'"
    for same, counts, difference in (
        (("fsdp", "data"), (1, 1), "parallelism is fsdp on process 0 and data on process 1"),
        (("data", "data"), (1, 2), "the number of its devices is 1 on process 0 and 2 on"),
    ):
        port = children.free_port()
        words = [
            program(
                devices % counts[index],
                "from dlcore.errors import UsageError",
                f"same = {{'parallelism': {same[index]!r}}}",
                "try:",
                f"    processes.start('localhost:{port}', 2, {index}, same)",
                "except UsageError as error:",
                "    print('error:', error)",
                "    processes.leave(2)",
            )
            for index in range(2)
        ]
        with children.running(tmp_path, *words) as both:
            for child in both:
                assert child.exit_code(limit=60) == 2, child.output
                (line,) = errors(child)
                assert line.startswith(f"error: {difference}"), child.output


@pytest.mark.slow
@pytest.mark.parametrize("process_id", [0, 1])
def test_two_that_have_the_same_number_both_end(tmp_path, process_id):
    words = program(start(children.free_port(), process_id))
    with children.running(tmp_path, words, words) as both:
        for child in both:
            assert child.exit_code(limit=60) != 0
            assert f"process_id={process_id}: another process on this machine" in child.output
            assert "terminate" not in child.output


@pytest.mark.slow
def test_process_0_listens_at_its_address_alone_and_a_late_double_disturbs_nobody(tmp_path):
    port = children.free_port()
    words = [
        program(
            f"processes.start('127.0.0.1:{port}', 2, {index})",
            "print('met', flush=True)",
            "time.sleep(600)",
        )
        for index in range(2)
    ]
    with children.running(tmp_path, *words) as both:
        for child in both:
            child.wait_until(lambda child=child: "met" in child.output)
        socket.create_connection(("127.0.0.1", port)).close()
        # Another address of the same machine.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))
        with children.running(tmp_path, words[1]) as (double,):
            assert double.exit_code() == 1
            assert "process_id=1: another process on this machine" in double.output
        time.sleep(1)
        for child in both:
            child.wait_until(lambda: True)


LIMITS = (
    "from dlcore import liveness",
    "processes.HEARTBEAT_TIMEOUT_SECONDS = 10",
    "liveness.STILL_SECONDS = 5",
)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_lost_the_other_says_so_in_one_line(tmp_path, victim, number):
    port = children.free_port()
    # It computes, so that not all are at rest.
    lines = ("print('met', flush=True)", "processes.at('the sum')", "while True: sum(range(10000))")
    words = [program(*LIMITS, start(port, index), *lines) for index in range(2)]
    with children.running(tmp_path, *words) as both:
        for child in both:
            child.wait_until(lambda child=child: "met" in child.output)
        both[victim].send(number)
        other = both[1 - victim]
        assert other.exit_code(limit=60) == 1
        _, told = other.output.split("met\n")
        assert told.strip() == (
            "error: at the sum: another process of this run died, left or was stopped: start all "
            "of them again"
        )


@pytest.mark.slow
def test_where_one_is_blocked_and_the_other_waits_both_say_where_they_stand(tmp_path):
    port = children.free_port()
    # Nobody will write into it.
    os.mkfifo(tmp_path / "data")
    words = [
        program(
            *LIMITS,
            start(port, index),
            f"processes.at('part {index}')",
            "try:",
            f"    open({str(tmp_path / 'data')!r}) if {index} else processes.first_says(True)",
            # What it waits for breaks when the other one ends.
            "except Exception as error:",
            "    processes.abandon(error)",
        )
        for index in range(2)
    ]
    with children.running(tmp_path, *words) as both:
        for index, child in enumerate(both):
            assert child.exit_code(limit=60) == 1
            (line,) = errors(child)
            assert line == (
                f"error: at part {index}: no process of this run does anything any more, one of "
                "them is stuck (process 0 at part 0, process 1 at part 1): start all of them again"
            )
            assert "Traceback" not in child.output
