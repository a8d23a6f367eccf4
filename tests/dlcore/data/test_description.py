"""What is said of a dataset: enough to see a change, and to prepare new inputs without it."""

import copy
import json

import jax
import numpy as np
import pytest

from dlcore import data
from dlcore.data import curriculum, text
from dlcore.data.description import change, describe, described, parsed
from dlcore.data.features import ClassLabel, Image
from dlcore.errors import UsageError

WORDS = "the quick brown fox jumps over the lazy dog. " * 40


def images(names=("cat", "dog", "eel"), **options):
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (60, 6, 6, 3), dtype=np.uint8),
        "label": np.arange(60) % 3,
    }
    features = {"image": Image((6, 6, 3)), "label": ClassLabel(tuple(names))}
    opened = data.from_arrays(features, {"train": arrays}, options, "animals")
    return opened.provide({"image": (Image,), "label": (ClassLabel,)})


def written(dataset):
    """A description as JSON keeps it."""
    return json.loads(json.dumps(describe(dataset)))


def test_what_is_the_same_has_not_changed():
    for make in (images, lambda: text.load_text("fox", {"train": WORDS})):
        assert change(written(make()), describe(make())) is None
    for name in ("zip:digits,digits_segments", "diabetes", "synthetic"):
        options = {"image_size": 4, "num_examples": 20} if name == "synthetic" else {}
        opened = data.load(name, options=options)
        assert change(written(opened), describe(opened)) is None


def test_the_most_telling_change_is_named():
    def altered(*path, value):
        plain = written(images())
        inner = plain
        for word in path[:-1]:
            inner = inner[word]
        inner[path[-1]] = value
        return plain

    many = [str(number) for number in range(200)]
    changes = {
        "the names of 'label': cat, dog, eel, cat, eel, hound": describe(
            images(["cat", "eel", "hound"])
        ),
        "the names of 'label': 3, with 'cat', 'dog', 'eel', 200, with '0', '1', '2', ...": altered(
            "features", "label", "names", value=many
        ),
        "'label': a class, missing": altered("features", value={})
        | {"features": {"image": written(images())["features"]["image"]}},
        "the shape of 'image': 6, 6, 3, 8, 6, 3": altered(
            "features", "image", "shape", value=[8, 6, 3]
        ),
        "an example's 'image': 6x6x3 uint8, 6x6x3 float32": altered(
            "arrays", "image", "dtype", value="float32"
        ),
        "examples of train: 43, 44": altered("counts", "train", value=44),
        "examples of test: 12, 0": altered("counts", value={"train": 43, "validation": 5}),
        "examples of validation: 5, as many others": altered(
            "fingerprints", "validation", value="0"
        ),
    }
    before = written(images())
    for told, now in changes.items():
        found = change(before, now)
        assert found is not None, told
        assert f"{found.what}: {found.before}, {found.now}" == told


def test_statistics_may_differ_by_rounding_and_by_no_more():
    before = written(images())
    for factor, what in ((1 + 1e-4, None), (1.1, "the mean of 'image'")):
        now = copy.deepcopy(before)
        mean = now["statistics"]["image"]["mean"]
        mean[1] *= factor
        found = change(before, now)
        assert (found and found.what) == what


def test_colors_may_vary_along_an_axis_either_way():
    before = written(images(augment="pca_color"))
    for factor, what in ((-1, None), (1.1, "the color_components of 'image'")):
        now = copy.deepcopy(before)
        statistics = now["statistics"]["image"]
        components = np.array(statistics["color_components"])
        components[:, 1] *= factor
        statistics["color_components"] = components.tolist()
        found = change(before, now)
        assert (found and found.what) == what


def test_statistics_are_said_only_where_they_are_used():
    assert set(written(images())["statistics"]["image"]) == {"mean", "standard_deviation"}
    assert not written(images(normalize="symmetric"))["statistics"]
    with_colors = written(images(normalize="symmetric", augment="pca_color"))["statistics"]
    assert np.shape(with_colors["image"]["color_components"]) == (3, 3)


def test_a_letter_of_a_text_makes_it_another_one():
    before = written(text.load_text("fox", {"train": WORDS}))
    same_letters = text.load_text("fox", {"train": WORDS.replace("fox", "xof", 1)})
    found = change(before, describe(same_letters))
    assert (found.what, found.now) == ("examples of train", "as many others")
    other_letters = text.load_text("fox", {"train": WORDS.replace("q", "Q")})
    found = change(before, describe(other_letters))
    assert found == ("the vocabulary of 'targets'", "28, with 'q'", "28, with 'Q'")


def test_of_data_that_are_gone_nothing_is_measured(monkeypatch):
    opened = images(curriculum_epochs=2)
    again = described(written(opened), "animals", {"curriculum_epochs": 2})
    steps = opened.train_batches(4, 0).steps_per_epoch

    def refuse(*arguments):
        raise AssertionError("measured")

    monkeypatch.setattr(curriculum, "difficulty", refuse)
    assert again.train_batches(4, 0).steps_per_epoch == steps
    with pytest.raises(AssertionError, match="measured"):
        images(curriculum_epochs=2).train_batches(4, 0)


@pytest.mark.parametrize("options", [{}, {"normalize": "symmetric", "pad": 1}, {"crop_size": 4}])
def test_new_images_are_prepared_as_the_data_that_are_gone_would_have_them(options):
    opened = images(**options)
    again = described(written(opened), "animals", options)
    assert again.features == opened.features
    assert dict(again.facts)["image_shape"] == opened.facts["image_shape"]
    assert again.facts["num_classes"] == 3
    assert again.num_examples("train") == opened.num_examples("train")
    batch, zeros = opened.example_batch(5), again.example_batch(5)
    for key, array in batch.items():
        assert (zeros[key].shape, zeros[key].dtype) == (array.shape, array.dtype)
    for one, two in zip(
        jax.tree.leaves(again.transform({"image": batch["image"]}, None, False)),
        jax.tree.leaves(opened.transform({"image": batch["image"]}, None, False)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(UsageError, match="data=animals was not opened: only new inputs"):
        again.evaluation_batches("test", 4)
    assert change(written(opened), describe(again)) is None


def test_new_texts_are_encoded_as_the_text_that_is_gone_was():
    options = {"sequence_length": 16}
    opened = text.load_text("fox", {"train": WORDS}, data.TextOptions(**options))
    again = described(written(opened), "fox", options)
    assert again.vocabulary == opened.vocabulary
    assert again.facts["vocabulary_size"] == 28
    np.testing.assert_array_equal(again.encode("lazy fox"), opened.encode("lazy fox"))
    assert again.num_examples("train") == opened.num_examples("train")
    with pytest.raises(UsageError, match="data=fox was not opened"):
        again.evaluation_batches("test", 4)


def test_of_two_side_by_side_no_dataset_is_made():
    name = "zip:digits,digits_segments"
    assert described(written(data.load(name)), name, {}) is None


def test_a_damaged_description_is_refused():
    assert parsed(written(images())) == describe(images())
    for path, value in {
        ("features", "label"): {"kind": "Telepathy"},
        ("features", "image"): {"kind": "Image"},
        ("features",): {"label": {"names": ["a"]}},
        ("arrays", "image"): {"dtype": "uint8"},
        ("arrays", "image", "dtype"): "uint9",
        ("arrays", "image", "shape"): [-1],
        ("arrays",): {},
        ("counts",): {"test": 3},
        ("counts", "train"): -1,
        ("statistics",): None,
        ("fingerprints",): {},
    }.items():
        plain = written(images())
        inner = plain
        for word in path[:-1]:
            inner = inner[word]
        inner[path[-1]] = value
        with pytest.raises(ValueError, match="."):
            parsed(plain)
