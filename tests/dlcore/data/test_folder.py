"""Folders of one's own images."""

import numpy as np
import pytest

from dlcore.data import load
from dlcore.data.features import INPUTS, ClassLabel, Image
from dlcore.errors import UsageError

HALVES = {"validation_fraction": 0, "test_fraction": 0.5}


def fetch(data, split):
    examples = data.splits[split]
    return examples.fetch(np.arange(len(examples)))


def test_each_folder_is_a_class_and_each_file_an_example(write_image):
    for name, value in (("cat/1.png", 10), ("dog/2.png", 20), ("cat/3.png", 30)):
        root = write_image(name, np.full((4, 6), value))
    (root / "cat" / "notes.md").write_text("not an image")
    (root / ".thumbnails").mkdir()
    data = load(str(root), options={"validation_fraction": 0, "test_fraction": 0.34})
    assert data.features == {"image": Image((4, 6, 1)), "label": ClassLabel(("cat", "dog"))}
    found = {
        (int(image.mean()), int(label))
        for split in ("train", "test")
        for image, label in zip(
            *(fetch(data, split)[key] for key in ("image", "label")), strict=True
        )
    }
    assert found == {(10, 0), (30, 0), (20, 1)}


def test_train_and_test_folders_are_the_splits(write_image):
    for name in ("train/a/1.png", "train/a/2.png", "train/b/1.jpg", "test/b/1.JPG"):
        root = write_image(name, np.zeros((4, 4)))
    data = load(str(root), options={"validation_fraction": 0})
    assert fetch(data, "train")["label"].tolist() == [0, 0, 1]
    assert fetch(data, "test")["label"].tolist() == [1]


def test_one_image_in_color_makes_them_all_color(write_image):
    write_image("a/1.png", np.full((4, 4), 7))
    root = write_image("a/2.png", np.full((4, 4, 3), 7))
    data = load(str(root), options=HALVES)
    assert data.facts["image_shape"] == (4, 4, 3)


def test_images_of_several_sizes_need_resize(write_image):
    write_image("a/1.png", np.full((4, 4), 7))
    root = write_image("a/2.png", np.full((5, 8), 7))
    with pytest.raises(UsageError, match=r"2.png has 5 x 8 pixels, .*1.png 4 x 4: set resize"):
        load(str(root), options=HALVES).provide({"image": INPUTS})
    data = load(str(root), options={**HALVES, "resize": 6})
    assert data.facts["image_shape"] == (6, 6, 1)
    assert set(np.unique(fetch(data, "train")["image"])) == {7}


def test_the_central_square_may_be_all_that_is_resized(write_image):
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 200
    for number in (1, 2):
        root = write_image(f"a/{number}.png", pixels)
    data = load(str(root), options={**HALVES, "resize": 4, "cut_square": True})
    np.testing.assert_array_equal(fetch(data, "train")["image"], np.full((1, 4, 4, 1), 200))


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_a_file_that_cannot_be_read_is_named(write_image, content):
    noise = np.random.default_rng(0).integers(0, 256, (30, 30))
    write_image("a/1.png", noise)
    root = write_image("a/2.png", noise)
    broken = root / "a" / "2.png"
    broken.write_bytes(broken.read_bytes()[:300] if content == "truncated" else content)
    with pytest.raises(UsageError, match=f"cannot read image {broken}"):
        load(str(root), options=HALVES).provide({"image": INPUTS, "label": (ClassLabel,)})


def test_a_folder_without_images_says_where_they_are_looked_for(tmp_path):
    with pytest.raises(UsageError, match=r"no images in .*: they are looked for in .*/CLASS/\*"):
        load(str(tmp_path))


def test_a_class_that_training_never_saw_is_refused(write_image):
    write_image("train/a/1.png", np.zeros((4, 4)))
    root = write_image("test/b/1.png", np.zeros((4, 4)))
    with pytest.raises(UsageError, match="test/b is no class of the training images: those are a"):
        load(str(root))


def test_nothing_is_written_into_the_folder(write_image):
    write_image("a/1.png", np.zeros((4, 4)))
    root = write_image("a/2.png", np.zeros((4, 4)))
    before = sorted(root.rglob("*"))
    load(str(root), options=HALVES)
    assert sorted(root.rglob("*")) == before


def test_images_without_class_folders_have_no_label(write_image):
    for name, value in (("1.png", 10), ("2.JPG", 20), ("3.png", 30)):
        root = write_image(name, np.full((4, 6), value))
    (root / "notes").mkdir()
    data = load(str(root), options={"validation_fraction": 0, "test_fraction": 0.34})
    assert data.features == {"image": Image((4, 6, 1))}
    assert set(data.example_batch(2)) == {"image", "mask"}
    found = np.concatenate([fetch(data, split)["image"] for split in ("train", "test")])
    assert sorted(found[:, 0, 0, 0].tolist()) == [10, 20, 30]
    with pytest.raises(UsageError, match="the task needs 'label' .a class. besides 'image'"):
        data.provide({"image": INPUTS, "label": (ClassLabel,)})


def test_splits_may_have_other_names(write_image):
    for name in ("old/a/1.png", "old/b/1.png", "new/b/1.png"):
        root = write_image(name, np.zeros((4, 4)))
    data = load(str(root), options={"splits": "train:old test:new", "validation_fraction": 0})
    assert fetch(data, "train")["label"].tolist() == [0, 1]
    assert fetch(data, "test")["label"].tolist() == [1]
    with pytest.raises(UsageError, match="splits has 'older': dataset .* has the splits "):
        load(str(root), options={"splits": "train:older"})
