"""The order of examples, and their split among processes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore.data import pipeline
from dlcore.data.curriculum import Curriculum
from dlcore.data.features import ClassLabel
from dlcore.data.sources import Arrays, Split
from dlcore.errors import UsageError

counts = st.integers(1, 40)
process_counts = st.integers(1, 4)
seeds = st.integers(0, 2**32 - 1)
# A busy machine is no failure.
unhurried = settings(deadline=None)


class SlowArrays(Arrays):
    streams = True


def split_of(count, kind=Arrays):
    """Examples whose label is their own index, the last first."""
    source = kind({"label": ClassLabel(tuple(map(str, range(count))))}, {"label": np.arange(count)})
    return Split(source, np.arange(count)[::-1], {"label": "label"})


def gather(shares):
    """The processes' shares of one batch, side by side."""
    return {key: np.concatenate([share[key] for share in shares]) for key in shares[0]}


@unhurried
@given(counts, seeds, st.integers(0, 3))
def test_a_permutation_holds_everything_once(count, seed, stream):
    order = pipeline.permutation(count, seed, stream)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_orders_are_what_they_were_when_trainings_were_started_with_them():
    np.testing.assert_array_equal(pipeline.permutation(8, 0, 0), [0, 3, 7, 5, 1, 2, 6, 4])


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(pipeline.permutation(20, *key)) for key in itertools.product((0, 1), (0, 1))}
    assert len(orders) == 4


@unhurried
@given(st.lists(st.integers(0, 3), min_size=1), st.integers(1, 5), seeds)
def test_some_of_each_class_are_as_many_as_there_are_and_no_more(labels, count, seed):
    labels = np.array(labels)
    places = pipeline.some_of_each(labels, count, seed, 0)
    assert (np.diff(places) > 0).all()
    expected = np.minimum(np.bincount(labels, minlength=4), count)
    np.testing.assert_array_equal(np.bincount(labels[places], minlength=4), expected)


@unhurried
@given(counts, st.floats(0, 1), seeds)
def test_carving_divides_the_indices_in_two(count, fraction, seed):
    indices = np.arange(count) * 3
    rest, carved = pipeline.carve(indices, fraction, seed, 0)
    assert len(carved) == round(count * fraction)
    assert (np.diff(rest) > 0).all()
    assert (np.diff(carved) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, carved])), indices)


@unhurried
@given(counts, process_counts, st.integers(1, 4), seeds)
def test_an_epoch_has_no_example_twice_on_any_number_of_processes(count, processes, each, seed):
    batch_size = processes * each
    if batch_size > count:
        return
    batches = [
        pipeline.train_batches(split_of(count), batch_size, seed, index, processes)
        for index in range(processes)
    ]
    steps = batches[0].steps_per_epoch
    assert steps == count // batch_size
    assert all(batch.batch_size == batch_size for batch in batches)
    for epoch in range(2):
        seen = [
            label
            for step in range(steps)
            for batch in batches
            for label in batch.batch(epoch * steps + step)["label"]
        ]
        assert len(set(seen)) == len(seen) == steps * batch_size


@unhurried
@given(process_counts, seeds, st.integers(0, 20))
def test_the_processes_shares_are_the_global_batch_in_order(processes, seed, step):
    split = split_of(30)
    whole = pipeline.train_batches(split, 12, seed, 0, 1).batch(step)
    shares = [
        pipeline.train_batches(split, 12, seed, index, processes).batch(step)
        for index in range(processes)
    ]
    for key, value in gather(shares).items():
        np.testing.assert_array_equal(value, whole[key])


@pytest.mark.parametrize("kind", [Arrays, SlowArrays])
@pytest.mark.parametrize("start", [1, 3, 7])
def test_a_stream_started_late_gives_exactly_the_remaining_batches(kind, start):
    batches = pipeline.train_batches(split_of(10, kind), 3, 0, 0, 1)
    uninterrupted = itertools.islice(batches.start(0), start, start + 6)
    for expected, batch in zip(uninterrupted, batches.start(start), strict=False):
        for key in expected:
            np.testing.assert_array_equal(batch[key], expected[key])


def test_streaming_keeps_the_order_of_memory():
    labels = [
        [next(stream)["label"].tolist() for _ in range(30)]
        for kind in (Arrays, SlowArrays)
        for stream in [pipeline.train_batches(split_of(50, kind), 4, 3, 0, 1).start(5)]
    ]
    assert labels[0] == labels[1]


def curriculum_of(count, epochs):
    """The higher its label, the harder an example."""
    return Curriculum(np.arange(count)[::-1].astype(np.float64), epochs)


@unhurried
@given(counts, process_counts, st.integers(1, 4), seeds, st.integers(1, 3))
def test_a_curriculum_draws_evenly_from_the_easiest_and_then_from_all(
    count, processes, each, seed, epochs
):
    split, batch_size = split_of(count), processes * each
    if batch_size > count:
        return
    plan = curriculum_of(count, epochs)
    plain = pipeline.train_batches(split, batch_size, seed, 0, 1)
    batches = [
        pipeline.train_batches(split, batch_size, seed, index, processes, plan)
        for index in range(processes)
    ]
    steps = plain.steps_per_epoch
    for epoch in range(epochs + 2):
        labels = [
            gather([part.batch(epoch * steps + step) for part in batches])["label"]
            for step in range(steps)
        ]
        times = np.bincount(np.concatenate(labels), minlength=count)
        if epoch < epochs:
            # The easiest n (e + 1) / (epochs + 1), rounded up, and enough for a batch.
            pool = max(-(-count * (epoch + 1) // (epochs + 1)), batch_size)
            assert times[pool:].sum() == 0
            assert times[:pool].max() - times[:pool].min() <= 1
        else:
            expected = [plain.batch(epoch * steps + step)["label"] for step in range(steps)]
            np.testing.assert_array_equal(labels, expected)


def test_the_rounds_and_epochs_of_a_curriculum_have_orders_of_their_own():
    batches = pipeline.train_batches(split_of(64), 8, 0, 0, 1, curriculum_of(64, 3))
    labels = [batches.batch(step)["label"] for step in range(8)]
    rounds = [np.concatenate(labels[first : first + 2]).tolist() for first in (0, 2, 4, 6)]
    assert all(sorted(turn) == list(range(16)) for turn in rounds)
    assert len(set(map(tuple, rounds))) == 4


@pytest.mark.parametrize("kind", [Arrays, SlowArrays])
def test_a_curriculum_started_late_gives_exactly_the_remaining_batches(kind):
    batches = pipeline.train_batches(split_of(20, kind), 3, 0, 0, 1, curriculum_of(20, 2))
    whole = [batch["label"].tolist() for batch in itertools.islice(batches.start(0), 20)]
    for start in (1, 6, 11, 17):
        late = itertools.islice(batches.start(start), 20 - start)
        assert [batch["label"].tolist() for batch in late] == whole[start:]


@pytest.mark.parametrize("kind", [Arrays, SlowArrays])
@settings(unhurried, max_examples=20)
@given(count=counts, processes=process_counts, each=st.integers(1, 9))
def test_an_evaluation_sees_every_example_once_and_in_order(kind, count, processes, each):
    split = split_of(count, kind)
    shares = [
        list(pipeline.evaluation_batches(split, processes * each, index, processes))
        for index in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    assert all(len(batch["mask"]) == each for share in shares for batch in share)
    batches = [gather(batch) for batch in zip(*shares, strict=True)]
    mask = np.concatenate([batch["mask"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(mask, [1] * count + [0] * (len(mask) - count))
    np.testing.assert_array_equal(labels[:count], np.arange(count)[::-1])


def test_what_goes_wrong_in_a_reading_thread_is_raised_where_the_batch_is_asked_for():
    class Damaged(SlowArrays):
        def fetch(self, indices, names):
            raise UsageError("record 7 is damaged")

    stream = pipeline.train_batches(split_of(10, Damaged), 2, 0, 0, 1).start(0)
    with pytest.raises(UsageError, match="record 7 is damaged"):
        next(stream)


def test_a_batch_that_does_not_divide_among_the_processes_is_refused():
    with pytest.raises(UsageError, match="batch_size 7 .* positive multiple of 2"):
        pipeline.train_batches(split_of(10), 7, 0, 0, 2)
    with pytest.raises(UsageError, match="batch_size 0 "):
        pipeline.evaluation_batches(split_of(10), 0, 0, 1)


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(UsageError, match="batch_size 11 exceeds the 10 training examples"):
        pipeline.train_batches(split_of(10), 11, 0, 0, 1)


@pytest.mark.parametrize(("fraction", "seed"), [(0.0, 0), (0.1, 1), (0.25, 2), (0.5, 3), (0.9, 4)])
def test_carving_by_class_gives_each_its_share_and_loses_nothing(fraction, seed):
    labels = np.repeat([2, 0, 1], [31, 7, 12])[pipeline.permutation(50, seed, 9)]
    indices = np.arange(100, 150)
    rest, carved = pipeline.carve_by_class(indices, labels, fraction, seed, 0)
    assert len(carved) == round(50 * fraction)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, carved])), indices)
    assert (np.diff(rest) > 0).all()
    assert (np.diff(carved) > 0).all()
    counts = np.bincount(labels[carved - 100], minlength=3)
    shares = np.bincount(labels) * fraction
    assert np.abs(counts - shares).max() < 1 + 0.5 * (len(carved) > 0)


def test_carving_by_class_is_random_and_by_the_seed():
    labels = np.arange(40) % 2
    drawn = [pipeline.carve_by_class(np.arange(40), labels, 0.2, seed, 0)[1] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert drawn[0].tolist() != drawn[2].tolist()
    counts = sum(
        np.bincount(pipeline.carve_by_class(np.arange(40), labels, 0.2, seed, 0)[1], minlength=40)
        for seed in range(500)
    )
    # Each is drawn in a fifth of the cases: 100 of 500, with a deviation of 9.
    assert np.abs(counts - 100).max() < 45
