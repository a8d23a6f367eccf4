"""Whether the processes of a run still move, with a dictionary in the place of JAX's store."""

import queue
import threading

import pytest

from dlcore import liveness
from dlcore.liveness import Liveness


class Store(dict):
    """What `dlcore.liveness.Store` says."""

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self
        self[key] = value

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.items() if name.startswith(f"{key}/")]


class Machine:
    """Processes that look in turns; `work[number]` is what each has done: see `Liveness`."""

    def __init__(self, count=2):
        self.work = [(0.0, 0, 0)] * count
        store = Store()
        self.all = [
            Liveness(store, n, count, lambda n=n: f"stage {n}", lambda n=n: self.work[n])
            for n in range(count)
        ]

    def look(self, times, *busy, seconds=0.5, read=0, stored=0):
        for _ in range(times):
            for number, one in enumerate(self.all):
                done = self.work[number]
                # Heartbeats alone take this much.
                work = (seconds, read + stored, stored)
                added = work if number in busy else (0.005, 150, 0)
                self.work[number] = tuple(map(sum, zip(done, added, strict=True)))
                one.look()

    def stuck(self, limit=10):
        return [one.stuck(limit) for one in self.all]


def test_all_at_rest_for_as_long_as_the_limit_are_stuck_and_each_knows_where_all_stand():
    machine = Machine(3)
    machine.look(10)
    assert machine.stuck(11) == [None] * 3
    machine.look(1)
    stand = "process 0 at stage 0, process 1 at stage 1, process 2 at stage 2"
    assert machine.stuck(10) == [stand] * 3


def test_those_at_one_place_are_named_together():
    machine = Machine(2)
    for one in machine.all:
        one._doing = lambda: "the report"
    machine.look(11)
    assert machine.stuck()[0] == "processes 0 1 at the report"


@pytest.mark.parametrize("work", [{"seconds": 0.1}, {"seconds": 0.0, "read": 5000}])
def test_while_one_computes_or_reads_the_others_may_wait(work):
    machine = Machine()
    for busy in (0, 1):
        machine.look(100, busy, **work)
        assert machine.stuck() == [None, None]
    # From its end on the time counts anew.
    machine.look(9)
    assert machine.stuck() == [None, None]


def test_what_was_written_has_its_time_to_come_to_a_slow_disk():
    machine = Machine()
    # 2 GB in a moment; who waits until they lie on the disk does nothing.
    machine.look(1, 0, stored=2 * 1024**3)
    machine.look(45)
    assert machine.stuck() == [None, None]
    machine.look(10)
    assert machine.stuck()[0]
    # What goes through a network is not on its way to a disk.
    machine.look(1, 0, read=2 * 1024**3)
    machine.look(11)
    assert machine.stuck()[0]


def test_one_that_tells_nothing_may_hold_pythons_lock_and_work():
    machine = Machine()
    machine.look(50)
    waiting = machine.all[0]
    assert waiting.stuck(10)
    for _ in range(50):
        waiting.look()
    assert waiting.stuck(10) is None


def test_before_all_have_told_anything_none_is_stuck():
    machine = Machine()
    for _ in range(50):
        machine.all[0].look()
    assert machine.stuck() == [None, None]


def test_the_limit_is_the_one_of_the_moment(monkeypatch):
    monkeypatch.setattr(liveness, "_INTERVAL", 0.01)
    alone = Liveness(Store(), 0, 1, lambda: "the test", lambda: (0.0, 0, 0))
    limits = iter([1000.0] * 50)
    told = queue.Queue()

    def end(stand):
        told.put((stand, next(limits, None)))
        raise RuntimeError("the thread ends here")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    liveness.watch(alone, lambda: next(limits, 0.05), end)
    assert told.get(timeout=10) == ("process 0 at the test", None)


def test_what_this_process_does_is_counted():
    alone = Liveness(Store(), 0, 1, lambda: "the test")
    for _ in range(20):
        alone.look()
    assert alone.stuck(10) == "process 0 at the test"
    sum(number * number for number in range(3_000_000))
    alone.look()
    assert alone.stuck(1) is None
