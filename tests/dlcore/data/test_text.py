"""Text: what is read in training and scored in evaluation, character by character."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore import data
from dlcore.data.features import Tokens
from dlcore.data.options import TextOptions
from dlcore.data.text import TextDataset, load_text
from dlcore.errors import UsageError


def _numbered(length, sequence_length=4):
    """A text whose every character is its own place in the text."""
    place = np.arange(length, dtype=np.int32)
    options = TextOptions(sequence_length=sequence_length)
    return TextDataset("numbered", {"train": place, "validation": place}, "", options)


sizes = st.tuples(st.integers(2, 200), st.integers(1, 6), st.integers(1, 9)).filter(
    lambda sizes: (sizes[0] - 1) // sizes[1] >= sizes[2]
)


@settings(deadline=None)
@given(sizes)
def test_each_row_reads_its_own_segment_in_order_and_begins_anew_with_each_epoch(sizes):
    length, batch_size, sequence_length = sizes
    batches = _numbered(length, sequence_length).train_batches(batch_size, seed=0)
    segment = (length - 1) // batch_size
    assert batches.steps_per_epoch == segment // sequence_length
    used = batches.steps_per_epoch * sequence_length
    epochs = list(itertools.islice(batches.start(0), 2 * batches.steps_per_epoch))
    for epoch in (epochs[: batches.steps_per_epoch], epochs[batches.steps_per_epoch :]):
        read = np.concatenate([batch["tokens"] for batch in epoch], axis=1)
        expected = np.arange(batch_size)[:, None] * segment + np.arange(used)
        np.testing.assert_array_equal(read, expected)
        assert [batch["start"].tolist() for batch in epoch] == [
            [step == 0] * batch_size for step in range(batches.steps_per_epoch)
        ]
    for batch in epochs:
        np.testing.assert_array_equal(batch["targets"], batch["tokens"] + 1)
        assert batch["mask"].all()
        assert {name: array.dtype for name, array in batch.items()} == {
            "tokens": np.int32,
            "targets": np.int32,
            "mask": np.float32,
            "start": np.bool_,
        }


@settings(deadline=None)
@given(sizes, st.integers(0, 50))
def test_the_batch_at_a_step_does_not_depend_on_where_the_stream_began(sizes, step):
    length, batch_size, sequence_length = sizes
    batches = _numbered(length, sequence_length).train_batches(batch_size, seed=0)
    resumed = next(batches.start(step))
    uninterrupted = next(itertools.islice(batches.start(0), step, None))
    for name, array in uninterrupted.items():
        np.testing.assert_array_equal(resumed[name], array)


@pytest.mark.parametrize("process_count", [1, 2, 3, 6])
def test_the_shares_of_all_processes_are_the_global_batch(process_count):
    dataset = _numbered(3000)
    shares = [
        (
            next(dataset.train_batches(6, 0, process, process_count).start(3)),
            *dataset.evaluation_batches("validation", 6, process, process_count),
        )
        for process in range(process_count)
    ]
    whole = (
        next(dataset.train_batches(6, 0).start(3)),
        *dataset.evaluation_batches("validation", 6),
    )
    for batch, *parts in zip(whole, *shares, strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)


@settings(deadline=None)
@given(st.integers(2, 6000), st.integers(1, 4))
def test_evaluation_scores_every_character_but_the_first_once(length, batch_size):
    scored = []
    for batch in _numbered(length).evaluation_batches("validation", batch_size):
        counted = batch["mask"] == 1
        assert len(counted) == batch_size
        np.testing.assert_array_equal(batch["targets"][counted], batch["tokens"][counted] + 1)
        scored.append(batch["targets"][counted])
    np.testing.assert_array_equal(np.concatenate(scored), np.arange(1, length))


def test_evaluation_predicts_from_no_less_than_128_characters_or_all_that_there_are():
    for batch in _numbered(6000).evaluation_batches("validation", 4):
        for tokens, mask in zip(batch["tokens"], batch["mask"], strict=True):
            if mask.any():
                first = np.flatnonzero(mask)[0]
                assert first >= min(128, tokens[first])
                np.testing.assert_array_equal(np.diff(tokens[: mask.nonzero()[0][-1] + 1]), 1)


@settings(deadline=None)
@given(st.text(min_size=1))
def test_decoding_undoes_encoding(text):
    dataset = load_text(
        "drawn", dict.fromkeys(("train", "validation", "test"), text + "ab"), TextOptions()
    )
    assert dataset.decode(dataset.encode(text)) == text


def test_the_vocabulary_is_the_sorted_characters_of_the_training_text():
    texts = {"train": "hello, world", "validation": "held", "test": "we"}
    dataset = load_text("greeting", texts, TextOptions())
    assert dataset.vocabulary == " ,dehlorw"
    np.testing.assert_array_equal(dataset.encode("low"), [5, 6, 8])
    assert dataset.features == dict.fromkeys(("tokens", "targets"), Tokens(" ,dehlorw"))
    assert not dataset.statistics


def test_the_facts_of_a_text_are_its_vocabulary_and_how_often_each_character_occurs():
    options = TextOptions(sequence_length=3)
    texts = dict.fromkeys(("train", "validation", "test"), "abracadabra")
    facts = load_text("greeting", texts, options).facts
    assert (facts["vocabulary_size"], facts["sequence_length"]) == (5, 3)
    # a, b, c, d, r.
    assert facts["frequencies"].tolist() == [5, 2, 1, 1, 2]


def test_a_task_gets_the_tokens_of_a_text_and_nothing_else():
    dataset = _numbered(100)
    needs = {"tokens": (Tokens,), "targets": (Tokens,)}
    assert dataset.provide(needs) is dataset
    with pytest.raises(
        UsageError, match="needs 'image' .*: dataset 'numbered' has 'tokens' .token"
    ):
        dataset.provide({"image": data.features.INPUTS})
    with pytest.raises(UsageError, match="needs 'source': .*running text, in which tokens and tar"):
        dataset.provide({"source": (Tokens,), "tokens": (Tokens,)})


def test_characters_that_the_training_text_lacks_are_named():
    texts = {"train": "hello", "validation": "hölle", "test": "he"}
    with pytest.raises(UsageError, match="the validation split of 'greeting' has 'ö'"):
        load_text("greeting", texts, TextOptions())
    dataset = load_text("greeting", {**texts, "validation": "he"}, TextOptions())
    with pytest.raises(
        UsageError, match="the text has 'x', '~': it may only have the 4 characters"
    ):
        dataset.encode("hel~xx")


def test_ones_own_text_is_cut_into_train_validation_and_test_in_this_order(tmp_path):
    file = tmp_path / "own.txt"
    # The last character occurs nowhere else, as a rare character at the end of a long text may.
    text = "abcdefghij" * 9 + "abcdefghiZ"
    file.write_text(text)
    dataset = load_text("own", file, TextOptions(test_fraction=0.2, validation_fraction=0.25))
    parts = {split: dataset.decode(tokens) for split, tokens in dataset.splits.items()}
    assert parts == {"train": text[:60], "validation": text[60:80], "test": text[80:]}
    assert dataset.vocabulary == "Zabcdefghij"


def test_no_validation_fraction_means_no_validation_split():
    dataset = load_text("own", {"train": "abcdefghij"}, TextOptions(validation_fraction=0.0))
    assert set(dataset.splits) == {"train", "test"}
    with pytest.raises(UsageError, match="has no split 'validation': it has train, test"):
        dataset.num_examples("validation")


def test_a_folder_is_read_in_the_order_of_its_files_names(tmp_path):
    (tmp_path / "2.txt").write_bytes("\N{BYTE ORDER MARK}second\r\nline".encode())
    (tmp_path / "1.txt").write_text("first, with more than enough characters")
    (tmp_path / "notes.md").write_text("not this")
    dataset = load_text("own", tmp_path, TextOptions(test_fraction=0.1, validation_fraction=0.1))
    text = "".join(dataset.decode(dataset.splits[s]) for s in ("train", "validation", "test"))
    assert text == "first, with more than enough characters\nsecond\nline"


def test_text_that_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="has no text: put UTF-8 files"):
        load_text("own", tmp_path, TextOptions())
    with pytest.raises(UsageError, match=r"cannot read .*absent.txt: No such file"):
        load_text("own", tmp_path / "absent.txt", TextOptions())
    latin = tmp_path / "latin.txt"
    latin.write_bytes("h\xf6lle".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin.txt is no UTF-8 text: byte 1 is 0xf6"):
        load_text("own", latin, TextOptions())


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"validation": "ab", "test": "ab"}, "has no split 'train' to learn from"),
        ({"train": ""}, "the train split of 'own' has 0 characters"),
        ({"train": "abcdef"}, "the test split of 'own' has 1 characters"),
    ],
)
def test_a_text_that_leaves_a_split_empty_is_refused(texts, message):
    with pytest.raises(UsageError, match=message):
        load_text("own", texts, TextOptions())


def test_a_batch_that_the_text_cannot_fill_is_refused():
    dataset = _numbered(41, sequence_length=10)
    assert dataset.train_batches(4, seed=0).steps_per_epoch == 1
    with pytest.raises(UsageError, match=r"41 characters: 5 rows .* of 10 .* need 51"):
        dataset.train_batches(5, seed=0)
    with pytest.raises(UsageError, match="batch_size 4 does not divide among 3"):
        dataset.train_batches(4, 0, 0, 3)


@pytest.mark.parametrize("option", ["resize", "pad", "crop_size", "augment"])
def test_what_only_examples_have_is_refused(tmp_path, option):
    (tmp_path / "own.txt").write_text("abc" * 100)
    assert data.options_kind(str(tmp_path)) is TextOptions
    with pytest.raises(UsageError, match=f"has no option '{option}': it has .*, sequence_length"):
        data.load(str(tmp_path), options={option: 1})


def test_a_limited_dataset_is_the_first_examples_for_training_and_validation():
    dataset = _numbered(1000, sequence_length=10)
    assert dataset.num_examples("train") == 99
    few = dataset.limited(3)
    assert few.num_examples("train") == few.num_examples("validation") == 3
    batch = few.example_batch(3)
    np.testing.assert_array_equal(batch["tokens"], np.arange(30).reshape(3, 10))
    for count in (0, 100):
        with pytest.raises(UsageError, match="it must be 1 to 99"):
            dataset.limited(count)


def test_nothing_is_done_to_a_batch_on_the_device():
    dataset = _numbered(100)
    batch = dataset.example_batch(2)
    assert dataset.transform(batch, None, train=True) is batch


def test_tiny_shakespeare_is_the_known_text(data_dir):
    dataset = data.load("tiny_shakespeare", data_dir)
    assert {split: len(text) for split, text in dataset.splits.items()} == {
        "train": 1_003_854,
        "validation": 55_770,
        "test": 55_770,
    }
    assert len(dataset.vocabulary) == 65
    assert dataset.decode(dataset.splits["train"][:15]) == "First Citizen:\n"
    scored = sum(batch["mask"].sum() for batch in dataset.evaluation_batches("test", 8))
    assert scored == 55_769


def test_hidden_files_are_no_part_of_a_text_and_the_rest_is_named(tmp_path, caplog):
    for name, content in (("a.txt", "abc" * 20), ("b.TXT", "abd" * 20), ("._a.txt", "xyz" * 20)):
        (tmp_path / name).write_text(content)
    (tmp_path / "notes.md").write_text("None")
    assert load_text("ab", tmp_path).vocabulary == "\nabcd"
    assert caplog.messages == [f"{tmp_path}: not read: notes.md (1 in all)"]


def test_a_pipe_is_no_text(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="has no text"):
        load_text("pipe", tmp_path)
