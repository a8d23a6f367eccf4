"""Data that cannot be used: one clear line that names them, and they are left alone."""

import os
import shutil

import numpy as np
import PIL.Image
import pytest

from dlcore import data
from dlcore.data import registration
from dlcore.data.features import ClassLabel, Image
from experiments import train
from tests.experiments.refusals import SOFTMAX, assert_refused, files


def cut_an_image_in_half(root):
    path = root / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:100])
    return "cannot read image", str(path)


def remove_all_images(root):
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")
    return f"no images in {root}", "CLASS/*"


def name_a_class_that_is_not_trained(root):
    os.renames(root / "cat", root / "train" / "cat")
    os.renames(root / "dog", root / "test" / "dog")
    return f"{root / 'test' / 'dog'} is no class of the training images", "cat"


def enlarge_an_image(root):
    PIL.Image.new("L", (40, 40)).save(root / "dog" / "1.png")
    return "images differ in size", f"{root / 'dog' / '1.png'} has 40 x 40", "set resize"


@pytest.mark.parametrize(
    "harm",
    [cut_an_image_in_half, remove_all_images, name_a_class_that_is_not_trained, enlarge_an_image],
    ids=lambda harm: harm.__name__,
)
def test_images_of_ones_own_that_cannot_be_used_are_named(call, pictures, tmp_path, harm):
    fragments = harm(pictures)
    before = files(pictures)
    words = (*SOFTMAX, "--batch_size=4", "--data.resize=0", f"--data={pictures}")
    assert_refused(call(train, *words, f"--workdir={tmp_path / 'new'}"), *fragments)
    assert files(pictures) == before


def test_a_damaged_prepared_dataset_is_named(call, tmp_path):
    version = tmp_path / "tfds" / "mnist" / "3.0.1"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text('{"name": "mni')
    words = (*SOFTMAX, "--data=mnist", f"--data_dir={tmp_path / 'tfds'}")
    result = call(train, *words, f"--workdir={tmp_path / 'new'}")
    assert_refused(result, f"dataset 'mnist' in {version} is damaged", "experiments.prepare")


@pytest.mark.parametrize(
    ("key", "place", "value", "fragments"),
    [
        ("label", 7, 3, ("example 7 has label 3", "0..2")),
        ("label", 0, -1, ("example 0 has label -1", "0..2")),
        ("image", (5, 1, 2, 0), np.nan, ("example 5 holds NaN", "finite")),
        ("image", (5, 1, 2, 0), np.inf, ("example 5 holds NaN or infinity", "finite")),
    ],
)
def test_an_impossible_example_is_named(call, tmp_path, monkeypatch, key, place, value, fragments):
    features = {"image": Image((4, 4, 1)), "label": ClassLabel(("a", "b", "c"))}
    images = np.zeros((60, 4, 4, 1), np.float32)
    arrays = {"image": images, "label": np.arange(60, dtype=np.int32) % 3}
    arrays[key][place] = value

    def own(name: str, options: data.ExampleOptions) -> data.Dataset:
        return data.from_arrays(features, {"train": arrays}, options, name)

    known = registration.entry
    entry = registration.Entry(own, data.ExampleOptions)
    monkeypatch.setattr(registration, "names", lambda: ["own"])
    monkeypatch.setattr(registration, "entry", lambda name: entry if name == "own" else known(name))
    words = (*SOFTMAX, "--data=own", "--batch_size=8", f"--workdir={tmp_path / 'new'}")
    assert_refused(call(train, *words), "split 'train' of dataset 'own'", *fragments)
    assert not (tmp_path / "new").exists()
