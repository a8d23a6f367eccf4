"""Facts of examples that have to be counted, and those that only one feature can have."""

import numpy as np

from dlcore.data import from_arrays
from dlcore.data.features import ClassLabel, Tokens

words = np.array([[0, 1, 1], [2, 1, 0], [1, 0, 0]])
lengths = np.array([3, 2, 1])
classes = np.array([1, 1, 0])


def facts(features, **arrays):
    splits = {"train": arrays, "test": arrays}
    return from_arrays(features, splits, {"validation_fraction": 0}).facts


def test_tokens_are_counted_and_their_padding_is_not():
    found = facts({"words": Tokens("abcd", 3)}, words=words)
    assert found["vocabulary_size"] == 4
    assert found["frequencies"].tolist() == [4, 4, 1, 0]
    padded = {"words": Tokens("abcd", 3, padded=True)}
    found = facts(padded, words=words, words_length=lengths)
    assert found["frequencies"].tolist() == [1, 4, 1, 0]


def test_where_there_are_classes_they_are_counted_instead():
    features = {"words": Tokens("abcd", 3), "kind": ClassLabel(("dull", "fine"))}
    found = facts(features, words=words, kind=classes)
    assert (found["vocabulary_size"], found["num_classes"]) == (4, 2)
    assert found["frequencies"].tolist() == [1, 2]


def test_of_two_languages_neither_is_the_dataset_s():
    languages = {"source": Tokens("abc", 3), "target": Tokens("abcd", 3)}
    assert not facts(languages, source=words, target=words)
    same = facts({**languages, "source": Tokens("wxyz", 3)}, source=words, target=words)
    assert dict(same) == {"vocabulary_size": 4}
