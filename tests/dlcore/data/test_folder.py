"""Folders of one's own images."""

import os

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


def values(data, split):
    """The pixels of constant images of a split, with their labels."""
    found = fetch(data, split)
    return list(zip(found["image"][:, 0, 0, 0].tolist(), found["label"].tolist(), strict=True))


@pytest.fixture
def animals(write_image):
    """Two images of each of two classes."""
    for number, name in enumerate(("cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png")):
        root = write_image(name, np.full((4, 4), 10 * number))
    return root


def test_a_note_beside_images_does_not_make_them_a_text(animals, caplog):
    (animals / "README.txt").write_text("Where these come from")
    data = load(str(animals), options=HALVES)
    assert data.features["label"] == ClassLabel(("cat", "dog"))
    assert f"{animals}: not read: README.txt (1 in all)" in caplog.messages


def test_one_line_names_what_is_not_read(animals, write_image, caplog):
    for name in ("loose.png", "dog/more/4.png", "raw/deep/5.png"):
        write_image(name, np.zeros((4, 4)))
    (animals / "cat" / "list.csv").write_text("0.png")
    (animals / "cat" / "gone.png").symlink_to(animals / "nowhere.png")
    (animals / "empty").mkdir()
    for _ in range(2):
        data = load(str(animals), options=HALVES)
    assert data.features["label"] == ClassLabel(("cat", "dog"))
    [line] = caplog.messages
    assert line == f"{animals}: not read: empty/, loose.png, raw/, ... (6 in all)"


def test_where_all_is_read_nothing_is_said(animals, caplog):
    load(str(animals), options=HALVES)
    assert not caplog.messages


def test_hidden_files_and_folders_never_count(animals, caplog):
    for name in ("._notes.txt", "cat/._0.png", "cat/.DS_Store", ".git/head.png", "._dog/9.png"):
        (animals / name).parent.mkdir(exist_ok=True)
        (animals / name).write_bytes(b"no image")
    data = load(str(animals), options=HALVES)
    assert sum(data.num_examples(split) for split in data.splits) == 4
    assert not caplog.messages


def test_images_of_every_kind_count_in_upper_case_too(write_image):
    for name in ("a/1.bmp", "a/2.WEBP", "b/3.TIF", "b/4.Png"):
        root = write_image(name, np.zeros((4, 4)))
    data = load(str(root), options=HALVES)
    assert sum(data.num_examples(split) for split in data.splits) == 4


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_may_have_a_short_name(write_image, name):
    for number, path in enumerate(("train/a/1.png", "train/b/1.png", f"{name}/b/1.png")):
        root = write_image(path, np.full((4, 4), number))
    data = load(str(root), options={"test_fraction": 0.5})
    assert values(data, "validation") == [(2, 1)]


def test_two_folders_for_validation_are_refused(write_image):
    for path in ("train/a/1.png", "val/a/1.png", "valid/a/1.png"):
        root = write_image(path, np.zeros((4, 4)))
    with pytest.raises(UsageError, match="the splits val and valid, which are both validation"):
        load(str(root))
    options = {"splits": "train:train validation:val test:valid"}
    assert load(str(root), options=options).num_examples("test") == 1


def test_a_folder_without_images_is_no_class(animals, caplog):
    (animals / "eel").mkdir()
    (animals / "eel" / "notes.md").write_text("None was caught")
    assert load(str(animals), options=HALVES).features["label"] == ClassLabel(("cat", "dog"))
    assert f"{animals}: not read: eel/ (1 in all)" in caplog.messages


def test_a_class_may_be_named_train(write_image):
    for number, path in enumerate(("bus/0.png", "car/1.png", "train/2.png", "train/3.png")):
        root = write_image(path, np.full((4, 4), number))
    data = load(str(root), options=HALVES)
    assert data.features["label"] == ClassLabel(("bus", "car", "train"))
    assert sorted(values(data, "train") + values(data, "test")) == [(0, 0), (1, 1), (2, 2), (3, 2)]


def test_images_without_classes_may_be_divided_too(write_image):
    for path in ("train/0.png", "train/1.png", "test/2.png"):
        root = write_image(path, np.zeros((4, 4)))
    data = load(str(root), options={"validation_fraction": 0})
    assert {split: data.num_examples(split) for split in data.splits} == {"train": 2, "test": 1}
    assert "label" not in data.features


def test_a_pipe_named_as_an_image_is_passed_over(animals, caplog):
    os.mkfifo(animals / "cat" / "2.png")
    assert load(str(animals), options=HALVES).num_examples("train") == 2
    assert f"{animals}: not read: cat/2.png (1 in all)" in caplog.messages


def test_classes_may_be_links_and_what_lies_behind_them_is_followed(write_image, tmp_path):
    root = write_image("dog/0.png", np.full((4, 4), 10))
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    write_image("../elsewhere/1.png", np.full((4, 4), 20))
    both = {(10, 1), (20, 0)}
    data = load(str(root), options=HALVES)
    assert set(values(data, "train") + values(data, "test")) == both
    write_image("../elsewhere/1.png", np.full((4, 4), 30))
    write_image("../elsewhere/2.png", np.full((4, 4), 40))
    data = load(str(root), options=HALVES)
    assert set(values(data, "train") + values(data, "test")) == {(10, 1), (30, 0), (40, 0)}


@pytest.mark.parametrize("value", [0, 255])
def test_images_without_any_contrast_are_refused(write_image, value):
    for name in ("a/1.png", "b/2.png", "b/3.png", "b/4.png"):
        root = write_image(name, np.full((4, 4), value))
    data = load(str(root), options=HALVES)
    with pytest.raises(UsageError, match=f"every pixel of the 2 training images .* is {value}:"):
        data.provide({"image": INPUTS})


def test_images_that_differ_among_each_other_have_contrast(animals):
    opened = load(str(animals), options=HALVES)
    provided = opened.provide({"image": INPUTS})
    assert provided.num_examples("train") == opened.num_examples("train")


def test_every_class_is_in_every_split_of_a_stratified_choice(write_image):
    for number in range(60):
        root = write_image(f"{number % 3}/{number}.png", np.full((2, 2), number))
    for seed in range(20):
        data = load(str(root), options={"stratified": True, "split_seed": seed})
        counts = {
            split: np.bincount(fetch(data, split)["label"], minlength=3) for split in data.splits
        }
        # A fifth of 20 of each class is 4; a tenth of the other 48 is 5 in all.
        assert counts["test"].tolist() == [4, 4, 4]
        assert sorted(counts["validation"].tolist()) == [1, 2, 2]
        assert sum(counts.values()).tolist() == [20, 20, 20]
