"""Datasets by name."""

import itertools

import numpy as np
import pytest

from dlcore.data import Options, catalogue, load, sources
from dlcore.errors import UsageError

pixels = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 3), dtype=np.uint8)
labels = np.arange(40) % 3


def test_the_digits_need_no_data_directory(monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    data = load("digits")
    assert sum(data.num_examples(split) for split in data.splits) == 1797
    assert data.image_shape == (8, 8, 1)
    assert data.class_names == tuple("0123456789")
    images = next(data.evaluation_batches("test", data.num_examples("test")))["image"]
    np.testing.assert_array_equal(np.unique(images * 16), np.arange(17))


def test_the_digits_can_be_split_as_the_lectures_split_them():
    data = load("digits", options=Options(test_fraction=0.3, validation_fraction=0.3))
    assert {split: data.num_examples(split) for split in data.splits} == {
        "train": 881,
        "validation": 377,
        "test": 539,
    }


def test_the_digits_can_be_as_large_as_mnist():
    assert load("digits", options=Options(resize=28, pad=2)).image_shape == (32, 32, 1)


def test_mnist_is_the_known_dataset(data_dir):
    data = load("mnist", data_dir, Options(validation_fraction=0))
    assert {split: data.num_examples(split) for split in data.splits} == {
        "train": 60000,
        "test": 10000,
    }
    assert data.image_shape == (28, 28, 1)
    assert data.class_names == tuple("0123456789")
    assert np.round(data.statistics["mean"], 4).tolist() == pytest.approx([0.1307])
    assert np.round(data.statistics["standard_deviation"], 4).tolist() == pytest.approx([0.3081])
    # The counts of the training digits 0 to 9, as LeCun's files have them.
    train = data.splits["train"].fetch(np.arange(60000))
    assert np.bincount(train["label"]).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip


def test_the_data_directory_may_come_from_the_environment(write_dataset, monkeypatch):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    monkeypatch.setenv("DLCORE_DATA_DIR", str(data_dir))
    assert load("shapes").name == "shapes"


def test_a_prepared_dataset_may_be_named_by_its_folder(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    assert load(str(data_dir / "shapes" / "1.0.0")).image_shape == (5, 4, 3)


def test_a_text_is_recognized_prepared_or_ones_own(tmp_path, data_dir):
    (tmp_path / "play.txt").write_text("To be, or not to be. " * 100)
    for name in (str(tmp_path), str(tmp_path / "play.txt"), "tiny_shakespeare"):
        assert load(name, data_dir).kind == "text"


@pytest.mark.parametrize("augment", ["", "flip,crop"])
def test_a_dataset_over_the_limit_streams_the_same_batches(write_dataset, monkeypatch, augment):
    data_dir = write_dataset(
        {"train": (pixels, labels), "test": (pixels[:9], labels[:9])}, (5, 4, 3)
    )
    options = Options(augment=augment)
    held = load("shapes", data_dir, options)
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 49 * 60 - 1)
    streamed = load("shapes", data_dir, options)
    assert not held.splits["train"].source.streams
    assert streamed.splits["train"].source.streams
    for key, value in held.statistics.items():
        np.testing.assert_array_equal(streamed.statistics[key], value)
    for start in (0, 7):
        batches = [data.train_batches(8, 3, 1, 2).start(start) for data in (held, streamed)]
        for expected, batch in itertools.islice(zip(*batches, strict=True), 10):
            for key, value in expected.items():
                np.testing.assert_array_equal(batch[key], value)
    evaluations = [data.evaluation_batches("test", 4) for data in (held, streamed)]
    for expected, batch in zip(*evaluations, strict=True):
        for key, value in expected.items():
            np.testing.assert_array_equal(batch[key], value)


def test_a_second_start_reads_what_the_first_has_decoded(write_dataset, monkeypatch):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    first = load("shapes", data_dir)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "hold", lambda source: pytest.fail("decoded twice"))
        second = load("shapes", data_dir)
    np.testing.assert_array_equal(
        first.splits["train"].source.images, second.splits["train"].source.images
    )


def test_without_a_data_directory_the_error_says_how_to_get_the_dataset(monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    with pytest.raises(
        UsageError,
        match="'mnist' needs --data_dir .*prepare --dataset=mnist .*without download: digits",
    ):
        load("mnist")


def test_a_data_directory_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(
        UsageError, match=f"{tmp_path}/none does not exist, dataset 'mnist' .*prepare"
    ):
        load("mnist", tmp_path / "none")


def test_a_misspelt_dataset_is_answered_with_the_nearest_and_with_what_is_there(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    with pytest.raises(
        UsageError,
        match=r"unknown dataset 'shaeps': did you mean shapes\? there are digits, .*, shapes;",
    ):
        load("shaeps", data_dir)


def test_a_half_prepared_dataset_is_told_from_an_unknown_one(tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(UsageError, match="mnist holds no dataset_info.json"):
        load("mnist", tmp_path)


def test_the_catalogue_reads_only(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    catalogue.load("shapes", data_dir)
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before
