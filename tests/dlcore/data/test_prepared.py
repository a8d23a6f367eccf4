"""Datasets that TFDS has prepared, whole and damaged."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from dlcore.data import load, prepared
from dlcore.data.features import INPUTS, ClassLabel, Image, Row
from dlcore.errors import UsageError

rng = np.random.default_rng(0)
pixels = rng.integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
numbers = rng.normal(size=(12, 4)).astype(np.float32)
labels = np.arange(12) % 3


NEEDS = {"image": INPUTS, "label": (ClassLabel,)}


def fetch(data, split):
    examples = data.splits[split]
    return examples.fetch(np.arange(len(examples)))


@pytest.mark.parametrize(
    ("inputs", "feature"), [(pixels, Image((5, 4, 3))), (numbers, Row(("0", "1", "2", "3")))]
)
def test_examples_are_read_as_they_were_written(write_dataset, inputs, feature):
    shape = feature.shape
    data_dir = write_dataset({"train": (inputs, labels), "test": (inputs[:5], labels[:5])}, shape)
    data = load("shapes", data_dir, {"validation_fraction": 0})
    assert data.features == {"image": feature, "label": ClassLabel(("0", "1", "2"))}
    np.testing.assert_array_equal(fetch(data, "train")["image"], inputs)
    np.testing.assert_array_equal(fetch(data, "train")["label"], labels)
    np.testing.assert_array_equal(fetch(data, "test")["image"], inputs[:5])


def test_images_are_resized_as_they_are_read(write_dataset):
    sizes = [pixels[0], pixels[1, :3, :3], pixels[2, :2]]
    data_dir = write_dataset({"train": (sizes, [0, 1, 2])}, (None, None, 3))
    with pytest.raises(
        UsageError, match="dataset 'shapes', 'image': images differ in size: set resize"
    ):
        load("shapes", data_dir, {"validation_fraction": 0, "test_fraction": 0.4}).provide(NEEDS)
    options = {"resize": 8, "validation_fraction": 0, "test_fraction": 0.4}
    assert load("shapes", data_dir, options).facts["image_shape"] == (8, 8, 3)


def test_a_square_is_cut_out_of_images_before_they_are_resized(write_dataset):
    long = np.tile(pixels[0, :4, :4], (1, 2, 1))
    data_dir = write_dataset({"train": ([long] * 3, [0, 1, 2])}, (None, None, 3))
    options = {"resize": 4, "validation_fraction": 0, "test_fraction": 0.4}
    for cut_square in (True, False):
        data = load("shapes", data_dir, {**options, "cut_square": cut_square}).provide(NEEDS)
        read = data.splits["train"].fetch(np.array([0]))["image"][0]
        assert (read == long[:, 2:6]).all() == cut_square


def test_the_newest_version_is_opened_unless_one_is_named(write_dataset):
    for version, count in (("1.9.0", 4), ("1.10.0", 8)):
        data_dir = write_dataset(
            {"train": (pixels[:count], labels[:count]), "test": (pixels[:1], [0])},
            (5, 4, 3),
            version=version,
        )
    options = {"validation_fraction": 0}
    assert load("shapes", data_dir, options).num_examples("train") == 8
    assert load("shapes/1.9.0", data_dir, options).num_examples("train") == 4


def test_one_of_several_configurations_has_to_be_named(write_dataset):
    for configuration in ("large", "small"):
        write_dataset({"train": (pixels, labels)}, (5, 4, 3), name=configuration)
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3), name="other")
    data_dir.rename(data_dir.with_name("shapes"))
    with pytest.raises(UsageError, match="several configurations: use shapes/large, shapes/other"):
        load("shapes", data_dir.parent)
    assert load("shapes/small", data_dir.parent).num_examples("test") > 0


@pytest.mark.parametrize(
    "damage",
    ["shard truncated", "shard emptied", "shard missing", "shard overwritten", "info", "features"],
)
def test_a_damaged_dataset_is_named_with_what_to_do(write_dataset, damage):
    data_dir = write_dataset(
        {"train": (pixels, labels), "test": (np.tile(pixels, (90, 1, 1, 1)), np.tile(labels, 90))},
        (5, 4, 3),
    )
    directory = data_dir / "shapes" / "1.0.0"
    shard = directory / "shapes-test.array_record-00000-of-00001"
    whole = shard.read_bytes()
    match damage:
        case "shard truncated":
            shard.write_bytes(whole[: len(whole) // 2])
        case "shard emptied":
            shard.write_bytes(b"")
        case "shard missing":
            shard.unlink()
        case "shard overwritten":
            middle = len(whole) // 4
            shard.write_bytes(whole[:middle] + b"\x55" * 4000 + whole[middle + 4000 :])
        case "info":
            (directory / "dataset_info.json").write_text("{")
        case "features":
            (directory / "features.json").unlink()
    with pytest.raises(UsageError, match="dataset 'shapes' in .* is damaged .*prepare") as error:
        load("shapes", data_dir).provide(NEEDS)
    assert "\n" not in str(error.value)


def declaring(key, value):
    """Changes what a description holds under a key, wherever that is."""

    def change(described):
        if isinstance(described, list):
            return [change(item) for item in described]
        if not isinstance(described, dict):
            return described
        return {name: value if name == key else change(own) for name, own in described.items()}

    return change


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("dataset_info", declaring("shardLengths", ["-5"]), "damaged .*-5 examples in the split"),
        ("dataset_info", declaring("shardLengths", [str(10**18)]), "damaged .*it declares 1000000"),
        ("features", declaring("numClasses", str(10**15)), "damaged .*1000000000000000 classes of"),
        ("features", declaring("numClasses", "-3"), "damaged"),
        ("features", declaring("dimensions", ["-5", "4", "3"]), "damaged .*shape.*-5"),
        (
            "features",
            declaring("dimensions", ["1000000", "1000000", "3"]),
            r"'shapes': 1 of its examples.* 3,000.0 GB .* \(1000000, 1000000, 3\)",
        ),
        # As many that 64 bits do not count them.
        ("features", declaring("dimensions", [str(2**31)] * 2 + ["3"]), "'shapes': 1 of its exam"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_read(write_dataset, file, change, told):
    data_dir = write_dataset({"train": (pixels, labels), "test": (pixels, labels)}, (5, 4, 3))
    path = data_dir / "shapes" / "1.0.0" / f"{file}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UsageError, match=told) as error:
        load("shapes", data_dir).provide(NEEDS)
    assert "\n" not in str(error.value)


def test_an_image_of_another_shape_than_declared_is_damage(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels)}, (9, 9, 3))
    with pytest.raises(UsageError, match=r"damaged \(an example has shape \(5, 4, 3\), not \(9, 9"):
        load("shapes", data_dir).provide(NEEDS)


def test_a_label_out_of_range_is_named(write_dataset):
    wrong = np.where(np.arange(12) == 5, 2, 0)
    data_dir = write_dataset({"train": (pixels, wrong)}, (5, 4, 3), num_classes=2)
    with pytest.raises(UsageError, match=r"split 'train' .* example 5 has label 2: .* in 0\.\.1"):
        load("shapes", data_dir).provide(NEEDS)


def test_a_dataset_without_a_training_split_is_refused_with_those_it_has(write_dataset):
    data_dir = write_dataset({"small1": (pixels, labels), "small2": (pixels, labels)}, (5, 4, 3))
    with pytest.raises(UsageError, match="no split 'train' to learn from: it has small1, small2; "):
        load("shapes", data_dir)
    data = load("shapes", data_dir, {"splits": "train:small2 test:small1"})
    assert (data.num_examples("train"), data.num_examples("test")) == (11, 12)


def test_a_split_without_examples_is_named(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels), "test": (pixels[:0], [])}, (5, 4, 3))
    with pytest.raises(UsageError, match="split 'test' of dataset 'shapes' has no examples"):
        load("shapes", data_dir)


def test_nothing_imports_tensorflow(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    program = (
        "import sys; from dlcore import data; data.load('shapes', sys.argv[1]).example_batch(2);"
        "print('tensorflow' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, data_dir], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "False\n"
    assert answer.stderr == ""


def test_versions_are_compared_by_number(tmp_path):
    for version in ("3.0.1", "3.0.10", "3.0.9", "3.0.11.incompleteA1B2"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").touch()
    assert prepared.locate(tmp_path / "mnist").name == "3.0.10"
    assert prepared.locate(tmp_path / "cifar10") is None


def name_a_class(features, name):
    features["featuresDict"]["features"]["image"]["pythonClassName"] = name


def name_a_class_as_protobuf_does(features, name):
    image = features["featuresDict"]["features"]["image"]
    del image["pythonClassName"]
    image["python_class_name"] = name


def name_a_class_inside_a_sequence(features, name):
    inner = features["featuresDict"]["features"]["image"] | {"pythonClassName": name}
    features["featuresDict"]["features"]["more"] = {
        "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
        "sequence": {"feature": inner, "length": "-1"},
    }


def name_a_class_in_the_older_notation(features, name):
    features.clear()
    content = {"image": {"type": name, "content": {}}}
    kind = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    features |= {"type": kind, "content": content}


def name_a_class_in_the_older_notation_within_the_present(features, name):
    inner = json.dumps({"feature": {"type": name, "content": {}}, "length": None})
    features["featuresDict"]["features"]["more"] = {
        "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
        "jsonFeature": {"json": inner},
    }


@pytest.mark.parametrize(
    "harm",
    [
        name_a_class,
        name_a_class_as_protobuf_does,
        name_a_class_inside_a_sequence,
        name_a_class_in_the_older_notation,
        name_a_class_in_the_older_notation_within_the_present,
    ],
)
def test_a_description_runs_no_code_of_others(write_dataset, tmp_path, monkeypatch, harm):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    package = tmp_path / "shared_set"
    package.mkdir()
    (package / "helper.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = data_dir / "shapes" / "1.0.0" / "features.json"
    features = json.loads(path.read_text())
    harm(features, "shared_set.helper.X")
    path.write_text(json.dumps(features))
    with pytest.raises(UsageError, match="features.json names shared_set.helper.X, whose code"):
        load("shapes", data_dir)
    assert not (tmp_path / "ran").exists()


def test_a_pipe_in_the_place_of_a_description_is_damage(write_dataset):
    data_dir = write_dataset({"train": (pixels, labels)}, (5, 4, 3))
    path = data_dir / "shapes" / "1.0.0" / "features.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UsageError, match="is damaged .*features.json is no file"):
        load("shapes", data_dir)
