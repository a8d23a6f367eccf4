"""Two datasets side by side: in step, or each in its own order."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore import data
from dlcore.data import pairs
from dlcore.data.features import INPUTS, ClassLabel, Image, Text
from dlcore.errors import UsageError

FEATURES = {"image": Image((2, 3, 1)), "label": ClassLabel(tuple(map(str, range(200))))}
few = settings(max_examples=25, deadline=None)


def numbered(count, options=None, first=0, name="numbered"):
    """Examples whose label and pixels are their own number."""
    numbers = first + np.arange(count)
    pixels = np.broadcast_to(numbers[:, None, None, None], (count, 2, 3, 1))
    arrays = {"image": pixels.astype(np.float32), "label": numbers}
    given = {
        "normalize": "none",
        "validation_fraction": 0.2,
        "test_fraction": 0.3,
        **(options or {}),
    }
    return data.from_arrays(FEATURES, {"train": arrays}, given, name)


def pair(kind, first=40, second=40, options=None):
    parts = numbered(first, options, name="one"), numbered(second, options, first=100, name="two")
    return pairs.build(f"{kind}:one,two", kind, *parts)


def test_the_keys_of_both_end_in_a_letter():
    dataset = pair("zip")
    assert set(dataset.features) == {"image_a", "label_a", "image_b", "label_b"}
    batch = dataset.example_batch(3)
    assert {key: (array.dtype, array.shape) for key, array in batch.items()} == {
        **{f"image_{side}": (np.float32, (3, 2, 3, 1)) for side in "ab"},
        **{f"label_{side}": (np.int32, (3,)) for side in "ab"},
        **dict.fromkeys(("mask", "mask_a", "mask_b"), (np.float32, (3,))),
    }


@few
@given(st.integers(10, 40), st.integers(0, 9), st.integers(0, 30))
def test_zipped_examples_stay_together_in_any_order(count, seed, step):
    dataset = pair("zip", count, count)
    batch = dataset.train_batches(3, seed).batch(step)
    np.testing.assert_array_equal(batch["label_b"], batch["label_a"] + 100)
    for batch in dataset.evaluation_batches("test", 4):
        np.testing.assert_array_equal(batch["label_b"], batch["label_a"] + 100)
        np.testing.assert_array_equal(batch["mask_a"], batch["mask_b"])
    assert dataset.num_examples("train") == numbered(count).num_examples("train")


def test_a_zip_of_different_lengths_is_refused():
    with pytest.raises(UsageError, match="same number of examples .* 22 in train, 6 in val.* and"):
        pair("zip", 40, 41)


@few
@given(st.integers(12, 40), st.integers(12, 40), st.integers(0, 9))
def test_each_of_an_unpaired_set_is_seen_once_an_epoch_in_its_own_order(first, second, seed):
    dataset = pair("unpaired", first, second)
    batches = dataset.train_batches(3, seed)
    assert batches.batch_size == 3
    sides = {
        "a": numbered(first).train_batches(3, seed),
        "b": numbered(second, first=100).train_batches(3, seed),
    }
    assert batches.steps_per_epoch == min(side.steps_per_epoch for side in sides.values())
    assert dataset.num_examples("train") // 3 == batches.steps_per_epoch
    for letter, side in sides.items():
        # The longer one goes through all of its examples before it begins anew.
        labels = [batches.batch(step)[f"label_{letter}"] for step in range(side.steps_per_epoch)]
        seen = np.concatenate(labels).tolist()
        assert len(set(seen)) == len(seen) == 3 * side.steps_per_epoch


def test_sets_of_the_same_length_do_not_go_in_step_when_unpaired():
    batches = pair("unpaired").train_batches(20, seed=0)
    batch = batches.batch(0)
    assert (batch["label_b"] != batch["label_a"] + 100).any()
    # A pure function of the seed and the step.
    again = pair("unpaired").train_batches(20, seed=0).batch(0)
    np.testing.assert_array_equal(again["label_b"], batch["label_b"])
    other = pair("unpaired").train_batches(20, seed=1).batch(0)
    assert (other["label_b"] != batch["label_b"]).any()


@few
@given(st.sampled_from(pairs.KINDS), st.integers(1, 3), st.integers(0, 12))
def test_the_shares_of_processes_are_the_batch_and_a_stream_begins_anywhere(kind, processes, step):
    dataset = pair(kind)
    whole = dataset.train_batches(6, 3).batch(step)
    shares = [dataset.train_batches(6, 3, index, processes) for index in range(processes)]
    for key, array in whole.items():
        joined = np.concatenate([share.batch(step)[key] for share in shares])
        np.testing.assert_array_equal(joined, array)
    stream = dataset.train_batches(6, 3).start(step)
    for key, array in next(stream).items():
        np.testing.assert_array_equal(array, whole[key])


@few
@given(st.integers(12, 40), st.integers(12, 40), st.integers(1, 9), st.integers(1, 2))
def test_an_evaluation_sees_all_of_both_once(first, second, each, processes):
    dataset = pair("unpaired", first, second)
    shares = [
        list(dataset.evaluation_batches("test", each * processes, index, processes))
        for index in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    expected = {"a": numbered(first), "b": numbered(second, first=100)}
    for letter, alone in expected.items():
        labels = [
            batch[f"label_{letter}"][batch[f"mask_{letter}"] > 0]
            for batches in zip(*shares, strict=True)
            for batch in batches
        ]
        split = alone.splits["test"]
        labels_alone = split.fetch(np.arange(len(split)))["label"]
        np.testing.assert_array_equal(np.concatenate(labels), labels_alone)
    for batch in itertools.chain(*shares):
        np.testing.assert_array_equal(batch["mask"], batch["mask_a"] * batch["mask_b"])


def test_pictures_in_step_move_alike_and_unpaired_ones_do_not():
    for kind in pairs.KINDS:
        dataset = pair(kind, options={"augment": "noise:1"})
        batch = dataset.example_batch(4)
        batch["image_b"] = batch["image_a"]
        result = dataset.transform(batch, jax.random.key(0), True)
        same = np.array_equal(result["image_a"], result["image_b"])
        assert same == (kind == "zip")
        assert np.abs(result["image_a"] - batch["image_a"]).max() > 0.1
        plain = dataset.transform(batch, None, False)
        np.testing.assert_array_equal(plain["image_b"], batch["image_b"])
        assert set(plain) == set(batch)


def test_a_pair_is_normalized_by_the_statistics_of_each():
    dataset = pair("unpaired", options={"normalize": "mean_std"})
    batch = dataset.example_batch(28)
    # An image is 0 where its number is the mean of its own training split.
    result = dataset.transform(batch, None, False)
    for side in "ab":
        statistics = dataset.statistics[f"image_{side}"]
        expected = (batch[f"image_{side}"] - statistics["mean"]) / statistics["standard_deviation"]
        np.testing.assert_allclose(result[f"image_{side}"], expected, rtol=1e-6)
    assert dataset.statistics["image_b"]["mean"] > dataset.statistics["image_a"]["mean"] + 50


def test_a_pair_provides_what_a_task_needs_of_both():
    dataset = pair("zip")
    needs = {"image_a": (Image,), "image_b": (Image,)}
    translation = dataset.provide(needs)
    assert set(translation.example_batch(2)) == {*needs, "mask", "mask_a", "mask_b"}
    # Under the task's keys, where only one would do.
    images = pairs.build(
        "zip:one,two", "zip", numbered(40).provide({"image": INPUTS}), numbered(40)
    )
    classified = images.provide({"image_b": INPUTS, "label": (ClassLabel,)})
    batch = classified.example_batch(5)
    assert set(batch) == {"image_b", "label", "mask", "mask_a", "mask_b"}
    np.testing.assert_array_equal(batch["image_b"][:, 0, 0, 0], batch["label"])
    assert set(classified.transform(batch, None, False)) == set(batch)
    with pytest.raises(UsageError, match="has image_a, image_b, each of which may be the 'image'"):
        dataset.provide({"image": INPUTS})
    with pytest.raises(UsageError, match="needs 'text' .a text.: dataset 'zip:one,two' has "):
        dataset.provide({"text": (Text,)})


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_side_that_gives_labels_alone_is_not_augmented(side):
    options = {"augment": "crop:1", "pad": 1, "crop_size": 2}
    dataset = pair("zip", options=options)
    other = "ab".replace(side, "")
    provided = dataset.provide({f"image_{other}": INPUTS, f"label_{side}": (ClassLabel,)})
    batch = provided.example_batch(4)
    result = provided.transform(batch, jax.random.key(0), True)
    assert result[f"image_{other}"].shape == (4, 2, 2, 1)
    np.testing.assert_array_equal(result[f"label_{side}"], batch[f"label_{side}"])
    assert provided.options == dataset.options
    alone = dataset.provide({f"image_{other}": INPUTS})
    assert f"image_{other}" in alone.transform(alone.example_batch(4), jax.random.key(0), True)


def test_facts_are_those_of_each_and_of_both_where_they_agree():
    facts = pair("unpaired").facts
    assert facts["image_shape_a"] == facts["image_shape_b"] == facts["image_shape"] == (2, 3, 1)
    assert facts["num_classes"] == 200
    assert facts["frequencies_a"].sum() == numbered(40).num_examples("train")
    assert "frequencies" not in facts


def test_a_limited_pair_has_as_many_of_each():
    dataset = pair("unpaired", 40, 30).limited(5)
    assert {split: len(of) for split, of in dataset.splits.items()}["train"] == 5
    assert dataset.num_examples("validation") == 5


def test_pairs_are_loaded_by_name(register):
    register("one", lambda name, options: numbered(40, name=name))
    register("two", lambda name, options: numbered(40, first=100, name=name))
    dataset = data.load("zip:one, two", options={"test_fraction": 0.5})
    assert dataset.name == "zip:one, two"
    assert dataset.options == data.ExampleOptions(
        normalize="none", validation_fraction=0.2, test_fraction=0.3
    )
    digits = data.load("unpaired:digits,digits_segments", options={"resize": 4})
    assert digits.features["image_b"] == Image((4, 4, 1))
    assert digits.facts["num_tags"] == 7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("zip:digits", {}, "'zip:digits': zip takes two names, as in zip:A,B"),
        ("unpaired:digits,iris,wine", {}, "unpaired takes two names"),
        ("zip:digits,", {}, "zip takes two names"),
        ("zip:digits,nothing", {}, "'nothing' needs data_dir"),
        (
            "zip:digits,digits",
            {"curriculum_epochs": 1},
            "curriculum_epochs does not go with",
        ),
        (
            "zip:digits,digits",
            {"examples_per_class": 1},
            "examples_per_class does not go with",
        ),
        ("zip:digits,digits", {"sequence_length": 1}, "has no option 'sequence_length'"),
    ],
)
def test_a_pair_that_is_none_is_refused(monkeypatch, name, options, message):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    with pytest.raises(UsageError, match=message):
        data.load(name, options=options)


def test_a_text_is_not_read_in_pairs(tmp_path):
    (tmp_path / "own.txt").write_text("abc" * 100)
    with pytest.raises(UsageError, match="is running text, which has no pairs"):
        data.load(f"zip:digits,{tmp_path}")


@pytest.mark.parametrize("kind", ["zip", "unpaired"])
def test_a_sample_of_a_zip_is_of_the_same_places(kind):
    dataset = pair(kind, 40, 40).sampled(5, seed=3)
    first, second = (dataset.parts[side].splits["train"].indices for side in "ab")
    assert len(first) == len(second) == 5
    assert not np.array_equal(first, np.arange(5))
    if kind == "zip":
        np.testing.assert_array_equal(first, second)
