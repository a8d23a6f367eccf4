"""Texts as tokens: their division, their vocabulary, and what of a text a batch holds."""

import collections
import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcore import data
from dlcore.data import ExampleOptions, description, tokenization
from dlcore.data.features import ClassLabel, Text, Tokens
from dlcore.errors import UsageError

NEEDS = {"sequence": (Tokens,), "label": (ClassLabel,)}


def learned(texts, **options):
    return tokenization.learn(lambda: texts, ExampleOptions(**options), "some texts")


def read(tokens, text):
    """A text in the symbols of a vocabulary, without padding."""
    parts = tokenization.encode(tokens, [text])
    return [tokens.vocabulary[place] for place in parts[""][0, : parts["_length"][0]]]


def texts_dataset(texts, **options):
    """Texts to train on, and two more to test on."""
    described = {"text": Text(), "label": ClassLabel(("no", "yes"))}

    def arrays(some):
        return {"text": np.array(some, object), "label": np.arange(len(some)) % 2}

    splits = {"train": arrays(texts), "test": arrays(["an owl", ""])}
    return data.from_arrays(described, splits, {"validation_fraction": 0, **options}, "birds")


def test_words_are_numbered_from_the_most_frequent_one_on_behind_the_unknown_one():
    tokens = learned(["The owl, the OWL!", "the crow"])
    assert tokens.vocabulary[:3] == (tokenization.UNKNOWN, "the", "owl")
    assert sorted(tokens.vocabulary[3:]) == ["!", ",", "crow"]
    assert tokens.length == 6
    assert read(tokens, "THE eagle, the crow") == ["the", "<unknown>", ",", "the", "crow"]


@given(st.lists(st.text("ab c.", max_size=12), min_size=1, max_size=5))
def test_a_vocabulary_is_what_a_count_of_all_words_says(texts):
    words = collections.Counter(
        word for text in texts for word in text.replace(".", " . ").split() if "." not in word
    )
    if not words:
        return
    tokens = learned(texts)
    found = [word for word in tokens.vocabulary[1:] if "." not in word]
    assert set(found) == set(words)
    counts = [words[word] for word in found]
    assert counts == sorted(counts, reverse=True)


def test_rare_words_and_those_beyond_the_size_of_a_vocabulary_are_unknown():
    texts = ["a a a b b c c d"]
    assert set(learned(texts, min_count=2).vocabulary) == {"<unknown>", "a", "b", "c"}
    assert set(learned(texts, vocabulary_size=3).vocabulary) == {"<unknown>", "a", "b"}
    assert read(learned(texts, min_count=3), "a b d") == ["a", "<unknown>", "<unknown>"]


def test_characters_keep_their_case_where_they_are_to():
    tokens = learned(["O'Neill", "Ōno"], tokenization="character", lowercase=False)
    assert read(tokens, "Ōn'o") == ["Ō", "n", "'", "o"]
    assert read(learned(["On"], tokenization="character"), "NO") == ["n", "o"]


def test_pieces_join_what_stands_together_most_often():
    tokens = learned(["lower lowest low slow"] * 3, tokenization="subword", vocabulary_size=12)
    assert "low" in tokens.vocabulary
    assert len(tokens.vocabulary) == 12
    assert "".join(read(tokens, "slower")) == "slower"
    with pytest.raises(UsageError, match="tokenization is subword, and vocabulary_size is 0"):
        learned(["low"], tokenization="subword")


def test_line_ends_and_marks_of_byte_order_change_nothing():
    tokens = learned(["one two two"])
    assert read(tokens, "\ufeffone\r\ntwo\ttwo\r\n") == ["one", "two", "two"]


def test_two_trainings_on_the_same_texts_give_the_same_tokens():
    texts = [f"word{number % 7} and {chr(97 + number)}" for number in range(26)]
    for choice in ("word", "character", "subword"):
        options = {"tokenization": choice, "vocabulary_size": 20}
        assert learned(texts, **options) == learned(list(texts), **options)


def test_a_text_is_cut_or_padded_to_the_length_and_an_empty_one_has_none():
    tokens = learned(["a b c d"], length=3)
    parts = tokenization.encode(tokens, ["d c b a", "a", ""])
    places = [tokens.vocabulary.index(letter) for letter in "dcba"]
    np.testing.assert_array_equal(parts[""], [places[:3], [places[3], 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(parts["_length"], [3, 1, 0])
    assert parts[""].dtype == parts["_length"].dtype == np.int32


def test_texts_without_a_symbol_that_counts_are_refused():
    for texts, options in ((["", "  "], {}), (["a b"], {"min_count": 2})):
        with pytest.raises(UsageError, match="some texts: the training texts hold no word"):
            learned(texts, **options)


def test_a_task_that_needs_tokens_gets_a_text_in_the_training_texts_vocabulary():
    opened = texts_dataset(["a crow", "a crow and a jay"])
    provided = opened.provide(NEEDS)
    tokens = provided.features["sequence"]
    assert set(tokens.vocabulary) == {"<unknown>", "a", "crow", "and", "jay"}
    assert provided.facts["vocabulary_size"] == 5
    assert provided.facts["num_classes"] == 2
    batch = next(provided.evaluation_batches("test", 2))
    np.testing.assert_array_equal(batch["sequence"], [[0, 0, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(batch["sequence_length"], [2, 0])


def test_how_often_a_word_occurs_is_a_fact_where_there_is_no_class():
    provided = texts_dataset(["a crow", "a crow and a jay"]).provide({"words": (Tokens,)})
    tokens = provided.features["words"]
    counted = dict(zip(tokens.vocabulary, provided.facts["frequencies"], strict=True))
    assert counted == {"<unknown>": 0, "a": 3, "crow": 2, "and": 1, "jay": 1}


def test_a_task_that_needs_texts_still_gets_them():
    provided = texts_dataset(["a crow", "a jay"]).provide({"text": (Text,)})
    assert provided.example_batch(2)["text"].tolist() == ["a crow", "a jay"]


def test_options_for_texts_are_refused_where_there_are_none():
    for option in ({"min_count": 2}, {"vocabulary_size": 9}, {"length": 4}):
        with pytest.raises(UsageError, match=f"{next(iter(option))} is ., for"):
            data.load("digits", None, option)
    with pytest.raises(UsageError, match="unknown tokenization 'syllable': it is one of word,"):
        ExampleOptions(tokenization="syllable")


def test_what_is_recorded_of_tokens_reads_further_texts_as_before():
    provided = texts_dataset(["a crow", "a crow and a jay"]).provide(NEEDS)
    recorded = msgspec.json.decode(msgspec.json.encode(data.describe(provided)))
    plain = dataclasses.asdict(provided.options)
    again = description.described(description.parsed(recorded), "birds", plain)
    for text in ("a jay", "an owl and a crow"):
        one, other = (
            tokenization.encode(known.features["sequence"], [text]) for known in (provided, again)
        )
        np.testing.assert_array_equal(one[""], other[""])
    other = texts_dataset(["a crow", "a crow or a jay"]).provide(NEEDS)
    found = description.change(data.describe(provided), data.describe(other))
    assert found.what == "the vocabulary of 'sequence'"
    assert "'and'" in found.before
    assert "'or'" in found.now


def test_two_equal_texts_of_two_classes_cannot_be_learned_by_heart():
    provided = texts_dataset(["a crow", "a crow"]).provide(NEEDS)
    with pytest.raises(UsageError, match="have the same sequence, and different answers"):
        provided.sampled(2, 0)


def test_pieces_are_characters_and_then_what_was_joined_in_that_order():
    tokens = learned(["aab aab ab"], tokenization="subword", vocabulary_size=5)
    # The pair a b occurs three times, what it becomes twice behind an a.
    assert tokens.vocabulary == ("<unknown>", "a", "b", "ab", "aab")
    assert learned(
        ["aab aab ab"], tokenization="subword", vocabulary_size=5, min_count=3
    ).vocabulary == ("<unknown>", "a", "b", "ab")
