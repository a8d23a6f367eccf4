"""A thread that prepares batches ahead, and never outlives its use."""

import itertools
import threading

import pytest

from dlcore.data.prefetching import prefetch


def test_everything_is_placed_and_in_order():
    assert list(prefetch(iter(range(50)), lambda item: item * 2)) == list(range(0, 100, 2))


def test_the_next_batches_are_prepared_before_they_are_asked_for():
    third = threading.Event()

    def place(item):
        if item == 2:
            third.set()
        return item

    with prefetch(itertools.count(), place, size=2) as batches:
        # Two wait in the queue and one in the thread's hand, though none was asked for.
        assert third.wait(timeout=30)
        assert [next(batches) for _ in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("where", ["iterator", "place"])
def test_an_error_surfaces_at_the_item_that_raised_it(where):
    def items():
        yield from range(3)
        if where == "iterator":
            raise OSError("disk on fire")
        yield 3

    def place(item):
        if item == 3:
            raise OSError("disk on fire")
        return item

    batches = prefetch(items(), place)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk on fire"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_closing_ends_a_thread_that_waits_for_room():
    full = threading.Event()

    def place(item):
        if item == 1:
            full.set()
        return item

    batches = prefetch(itertools.count(), place, size=1)
    assert full.wait(timeout=30)
    batches.close()
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
    with pytest.raises(StopIteration):
        next(batches)


def test_a_read_that_is_stuck_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr("dlcore.data.prefetching._PATIENCE", 0.05)
    release = threading.Event()
    batches = prefetch(itertools.count(), lambda item: release.wait(timeout=60))
    batches.close()
    release.set()
    with pytest.raises(StopIteration):
        next(batches)


def test_the_thread_ends_with_its_iterator():
    assert list(prefetch(iter([1]), str)) == ["1"]
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
