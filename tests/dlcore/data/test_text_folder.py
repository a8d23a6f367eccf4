"""Folders of texts, one folder a class."""

import numpy as np
import pytest

from dlcore import data
from dlcore.data.features import ClassLabel, Text, Tokens
from dlcore.data.options import ExampleOptions, TextOptions
from dlcore.data.text_folder import open_texts
from dlcore.errors import UsageError

NEEDS = {"sequence": (Tokens,), "label": (ClassLabel,)}


def write(root, **texts):
    """Texts by class, a file each."""
    for name, some in texts.items():
        (root / name).mkdir(parents=True)
        for number, text in enumerate(some):
            (root / name / f"{number}.txt").write_bytes(text)
    return root


def test_each_file_is_an_example_of_the_class_that_its_folder_names(tmp_path):
    write(tmp_path, ham=[b"see you\r\nat nine", b"\xef\xbb\xbfna\xc3\xafve"], spam=[b"buy", b""])
    texts = open_texts(tmp_path, ExampleOptions())["train"]
    assert texts.features == {"text": Text(), "label": ClassLabel(("ham", "spam"))}
    found = texts.fetch(np.array([3, 0, 1, 2]), ("text", "label"))
    assert found["text"][""].tolist() == ["", "see you\nat nine", "naïve", "buy"]
    np.testing.assert_array_equal(found["label"][""], [1, 0, 0, 1])
    assert texts.num_bytes == 16 + 9 + 3


def test_train_and_test_may_have_folders_of_their_own(tmp_path):
    write(tmp_path / "train", ham=[b"hello", b"bye"], spam=[b"buy", b"win"])
    write(tmp_path / "test", ham=[b"hello you"], spam=[b"win now"])
    provided = data.load(str(tmp_path), None, {"validation_fraction": 0}).provide(NEEDS)
    assert {split: len(own) for split, own in provided.splits.items()} == {"train": 4, "test": 2}
    assert set(provided.features["sequence"].vocabulary[1:]) == {"hello", "bye", "buy", "win"}


def test_texts_in_the_folder_itself_are_running_text(tmp_path):
    write(tmp_path, ham=[b"hello"])
    (tmp_path / "all.txt").write_text("one running text")
    assert data.options_kind(str(tmp_path)) is TextOptions


def test_what_is_no_text_is_named(tmp_path):
    write(tmp_path, ham=[b"hello", b"na\xefve"], spam=[b"buy", b"win"])
    with pytest.raises(UsageError, match=r"1\.txt is no UTF-8 text: byte 2 is 0xef"):
        data.load(str(tmp_path), None, {"validation_fraction": 0}).provide(NEEDS)
