"""Data are known again by what they hold, not by where and when they were written."""

import os
import shutil

import numpy as np
import pytest

from dlcore import data
from dlcore.data import decoding, fingerprints
from dlcore.errors import UsageError


def test_arrays_are_told_apart_by_each_of_their_bytes_their_shape_dtype_and_name():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    changed = array.copy()
    changed[1, 2] = 7
    others = [
        {"a": changed},
        {"a": array.reshape(3, 2)},
        {"a": array.view(np.float32)},
        {"a": array[::-1]},
        {"b": array},
        {"a": array, "b": array},
    ]
    found = [fingerprints.of_arrays(each) for each in ({"a": array}, *others)]
    assert len(set(found)) == len(found)
    # A view with gaps holds the same as its copy.
    wide = np.zeros((2, 6), np.int32)
    wide[:, ::2] = array
    assert fingerprints.of_arrays({"a": wide[:, ::2]}) == found[0]


def test_of_python_objects_the_texts_count_and_no_address():
    def of(*values):
        held = np.empty(len(values), object)
        held[:] = values
        return fingerprints.of_arrays({"text": held})

    assert of("a", "b", object()) == of("a", "b", object())
    assert len({of("a", "b"), of("b", "a"), of("ab"), of("a", "b", "c")}) == 4


def test_a_large_file_is_known_by_its_size_its_beginning_its_middle_and_its_end(
    tmp_path, monkeypatch
):
    path = tmp_path / "records"
    content = bytearray(np.random.default_rng(0).bytes(3000))

    def of(changed):
        path.write_bytes(changed)
        return fingerprints.of_files([("records", path)])

    def flipped(place):
        other = bytearray(content)
        other[place] ^= 1
        return of(other)

    assert len({of(content), *(flipped(place) for place in (0, 777, 1500, 2999))}) == 5
    monkeypatch.setattr(fingerprints, "_BYTES", 300)
    monkeypatch.setattr(fingerprints, "_LEAST", 30)
    whole = of(content)
    assert len({whole, *map(flipped, (0, 1500, 2999)), of(content + b"x")}) == 5
    assert flipped(777) == whole
    # Of many files each has at least the least share.
    assert fingerprints.of_files([("a", path)] * 100) != fingerprints.of_files([("a", path)] * 99)
    with pytest.raises(UsageError, match="cannot read .*gone: No such file"):
        fingerprints.of_files([("gone", tmp_path / "gone")])


def prints(opened):
    return {split: opened.fingerprint(split) for split in opened.splits}


def test_a_folder_and_a_prepared_dataset_are_the_same_when_they_are_copied(
    write_image, write_dataset, tmp_path
):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (20, 4, 4, 1), dtype=np.uint8)
    for number, image in enumerate(images):
        folder = write_image(f"{'ab'[number % 2]}/{number}.png", image[..., 0])
    labels = np.arange(20) % 3
    prepared = write_dataset(
        {"train": (images[:12], labels[:12]), "test": (images, labels)}, (4, 4, 1)
    )
    for place in (folder, prepared / "shapes"):
        before = prints(data.load(str(place)))
        assert len(set(before.values())) == 3
        copy = tmp_path / "elsewhere" / place.name
        shutil.copytree(place, copy)
        for path in copy.rglob("*"):
            os.utime(path, (1, 1))
        assert prints(data.load(str(copy))) == before
        # A byte of a file that the test split is read from, or partly.
        for path in copy.rglob("*"):
            if path.is_file() and ("test" in path.name or path.suffix == ".png"):
                # The last byte of an image file is no part of its pixels.
                content = bytearray(path.read_bytes())
                content[-1] ^= 1
                path.write_bytes(content)
        assert prints(data.load(str(copy)))["test"] != before["test"]


def test_images_are_known_as_they_were_before_they_were_resized(monkeypatch):
    def found():
        return data.load("digits", options={"resize": 12}).fingerprint("train")

    before, resized = found(), decoding.resized

    def rounded_elsewhere(*arguments, **words):
        return np.nextafter(resized(*arguments, **words), np.float32(2))

    monkeypatch.setattr(decoding, "resized", rounded_elsewhere)
    assert found() == before


def test_a_split_is_known_by_which_examples_it_has():
    split = data.load("iris").splits["train"]
    assert split.fingerprint == data.load("iris").splits["train"].fingerprint
    others = data.load("iris", options={"split_seed": 1}).splits["train"]
    assert split.fingerprint != others.fingerprint
    assert split.source.fingerprint == others.source.fingerprint


def test_what_is_drawn_is_known_by_its_seed_and_sizes():
    def of(**options):
        small = {"image_size": 4, "num_classes": 3, "num_examples": 30}
        return data.load("synthetic", options=small | options).fingerprint("train")

    changes = [{}, {"drawing_seed": 1}, {"num_classes": 4}, {"num_examples": 40}, {"image_size": 5}]
    assert of() == of()
    assert len({of(**change) for change in changes}) == len(changes)


def test_a_pair_changes_with_either_side():
    def of(first, second):
        return data.load(f"zip:{first},{second}").fingerprint("train")

    assert len({of("digits", "digits_segments"), of("digits_segments", "digits")}) == 2
    assert of("digits", "digits_segments") == of("digits", "digits_segments")
