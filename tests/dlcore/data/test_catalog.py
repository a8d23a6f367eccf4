"""Datasets by name."""

import itertools

import numpy as np
import pytest

from dlcore.data import ExampleOptions, TextOptions, catalog, load, options_kind, places, sources
from dlcore.data.features import ClassLabel, Image
from dlcore.errors import UsageError

pixels = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 3), dtype=np.uint8)
labels = np.arange(40) % 3


def test_the_digits_need_no_data_directory(monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    data = load("digits")
    assert sum(data.num_examples(split) for split in data.splits) == 1797
    assert data.features == {"image": Image((8, 8, 1)), "label": ClassLabel(tuple("0123456789"))}
    images = next(data.evaluation_batches("test", data.num_examples("test")))["image"]
    np.testing.assert_array_equal(np.unique(images * 16), np.arange(17))


def test_the_digits_can_be_split_as_the_lectures_split_them():
    data = load("digits", options={"test_fraction": 0.3, "validation_fraction": 0.3})
    assert {split: data.num_examples(split) for split in data.splits} == {
        "train": 881,
        "validation": 377,
        "test": 539,
    }


def test_the_digits_can_be_as_large_as_mnist():
    assert load("digits", options={"resize": 28, "pad": 2}).facts["image_shape"] == (32, 32, 1)


@pytest.mark.slow
def test_mnist_is_the_known_dataset(data_dir):
    needs = {"image": (Image,), "label": (ClassLabel,)}
    data = load("mnist", data_dir, {"validation_fraction": 0}).provide(needs)
    assert {split: data.num_examples(split) for split in data.splits} == {
        "train": 60000,
        "test": 10000,
    }
    assert data.features == {"image": Image((28, 28, 1)), "label": ClassLabel(tuple("0123456789"))}
    measured = data.statistics["image"]
    assert np.round(measured["mean"], 4).tolist() == pytest.approx([0.1307])
    assert np.round(measured["standard_deviation"], 4).tolist() == pytest.approx([0.3081])
    # The counts of the training digits 0 to 9, as LeCun's files have them.
    train = data.splits["train"].fetch(np.arange(60000))
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train["label"]).tolist() == data.facts["frequencies"].tolist() == counts


def test_the_data_directory_may_come_from_the_environment(write_dataset, monkeypatch):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    monkeypatch.setenv("DLCORE_DATA_DIR", str(data_dir))
    assert load("shapes").name == "shapes"


def test_a_prepared_dataset_may_be_named_by_its_folder(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    assert load(str(data_dir / "shapes" / "1.0.0")).facts["image_shape"] == (5, 4, 3)


def test_a_text_is_recognized_prepared_or_ones_own(tmp_path, data_dir):
    (tmp_path / "play.txt").write_text("To be, or not to be. " * 100)
    for name in (str(tmp_path), str(tmp_path / "play.txt"), "tiny_shakespeare"):
        assert options_kind(name, data_dir) is TextOptions
        assert set(load(name, data_dir).features) == {"tokens", "targets"}


@pytest.mark.parametrize("augment", ["", "flip,crop:2"])
def test_a_dataset_over_the_limit_streams_the_same_batches(write_dataset, monkeypatch, augment):
    data_dir = write_dataset(
        {"train": (pixels, labels), "test": (pixels[:9], labels[:9])}, (5, 4, 3)
    )
    options = {"augment": augment}
    held = load("shapes", data_dir, options)
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 49 * (60 + 4) - 1)
    streamed = load("shapes", data_dir, options)
    assert not held.splits["train"].source.streams
    assert streamed.splits["train"].source.streams
    for key, value in held.statistics["image"].items():
        np.testing.assert_array_equal(streamed.statistics["image"][key], value)
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
    first = load("shapes", data_dir).example_batch(9)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "read", lambda source, names: pytest.fail("decoded twice"))
        second = load("shapes", data_dir).example_batch(9)
    for key, array in first.items():
        np.testing.assert_array_equal(second[key], array)


def test_without_a_data_directory_the_error_says_how_to_get_the_dataset(monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    with pytest.raises(
        UsageError,
        match="'mnist' needs data_dir, .*prepare --dataset=mnist .*without download: breast_",
    ):
        load("mnist")


def test_a_data_directory_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(
        UsageError, match=f"{tmp_path}/none does not exist, dataset 'mnist' .*prepare"
    ):
        load("mnist", tmp_path / "none")


def test_a_misspelled_dataset_is_answered_with_the_nearest_and_with_what_is_there(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    with pytest.raises(
        UsageError,
        match=r"unknown dataset 'shaeps': did you mean shapes\? there are breast_.*, shapes;",
    ):
        load("shaeps", data_dir)


def test_a_half_prepared_dataset_is_told_from_an_unknown_one(tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(UsageError, match="mnist holds no dataset_info.json"):
        load("mnist", tmp_path)


def test_the_catalog_reads_only(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    catalog.load("shapes", data_dir)
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before


def test_the_kind_of_options_is_known_before_any_example_is_read(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    for path in (data_dir / "shapes" / "1.0.0").glob("*.array_record*"):
        path.unlink()
    for name in ("shapes", "iris", "digits", "zip:digits,shapes"):
        assert options_kind(name, data_dir) is ExampleOptions
    with pytest.raises(UsageError, match="unknown dataset 'shaeps'"):
        options_kind("shaeps", data_dir)


def test_an_option_that_a_dataset_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(
        UsageError, match="'digits' has no option 'sequence_length': it has splits,"
    ):
        load("digits", options={"sequence_length": 9})
    with pytest.raises(UsageError, match="'digits' has no option 'sequence_length'"):
        load("digits", options=TextOptions())


def test_one_folder_below_the_data_directory_does_not_hide_another(write_dataset):
    write_dataset({"small": (pixels, labels)}, (5, 4, 3), name="others")
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    assert load("shapes", data_dir).num_examples("test") == 8
    data = load("others", data_dir, {"splits": "train:small"})
    assert data.num_examples("test") == 8


def test_a_folder_of_ones_own_below_the_data_directory_is_to_be_named_by_its_path(tmp_path):
    (tmp_path / "mypics" / "cat").mkdir(parents=True)
    with pytest.raises(UsageError, match=f"name it by its path, data={tmp_path}/mypics;") as raised:
        load("mypics", tmp_path)
    assert "move it elsewhere" in str(raised.value)


@pytest.mark.parametrize("option", ["name", "data_dir"])
def test_an_address_elsewhere_is_refused(tmp_path, option):
    name, data_dir = ("s3://b/x", tmp_path) if option == "name" else ("mnist", "s3://b/x")
    field = {"name": "data", "data_dir": "data_dir"}[option]
    for opened in (load, options_kind, places):
        with pytest.raises(UsageError, match=f"{field}=s3://b/x: s3:// is not supported"):
            opened(name, data_dir)


def test_home_stands_for_a_tilde_in_names_and_data_directories(write_dataset, monkeypatch):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    monkeypatch.setenv("HOME", str(data_dir))
    assert load("~/shapes").facts["image_shape"] == (5, 4, 3)
    monkeypatch.setenv("DLCORE_DATA_DIR", "~")
    assert load("shapes").facts["image_shape"] == (5, 4, 3)


def test_a_path_is_made_absolute_and_what_the_data_directory_holds_keeps_its_name(
    write_dataset, tmp_path, monkeypatch
):
    images = [np.zeros((2, 2, 1), np.uint8)] * 3
    data_dir = write_dataset({"train": (images, [0, 1, 2])}, (2, 2, 1))
    # A folder of one's own of the same name is not what `load` opens.
    (tmp_path / "here" / "shapes").mkdir(parents=True)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "here" / "link").symlink_to(data_dir / "shapes")
    # Where `..` leads behind a link, the link decides.
    (data_dir / "near").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    absolute = {
        "shapes": "shapes",
        "../pictures": str(tmp_path / "pictures"),
        # It may lead elsewhere on another machine.
        "link": str(tmp_path / "here" / "link"),
        "link/../near": str(data_dir / "near"),
        "zip: shapes, ../pictures": f"zip:shapes,{tmp_path / 'pictures'}",
        "digits": "digits",
        "nowhere": "nowhere",
    }
    for name, expected in absolute.items():
        assert catalog.located(name, data_dir) == expected, name


def test_the_places_of_a_dataset_are_where_it_is_read(write_dataset, tmp_path):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    version = data_dir / "shapes" / "1.0.0"
    assert places("digits") == []
    assert places("shapes", data_dir) == [version]
    (tmp_path / "play.txt").write_text("To be")
    assert places(f"zip:{tmp_path / 'play.txt'},shapes", data_dir) == [
        tmp_path / "play.txt",
        version,
    ]
