"""Facts fill open options: they must be those of the data as a model sees it."""

import numpy as np
import pytest

from dlcore.data import features as kinds
from dlcore.data import from_arrays
from dlcore.data.facts import Facts

PIXELS = np.zeros((20, 6, 5, 3), np.uint8)
LABELS = np.array([0, 1, 1, 2] * 5)
SPLITS = {"validation_fraction": 0.25, "test_fraction": 0.4}


def facts(features, options=None, **arrays):
    options = {**SPLITS, **(options or {})}
    return from_arrays(features, {"train": arrays}, options).facts


def test_images_with_a_class():
    features = {"image": kinds.Image((6, 5, 3)), "label": kinds.ClassLabel(("a", "b", "c", "d"))}
    found = facts(features, image=PIXELS, label=LABELS)
    assert found["num_classes"] == 4
    assert found["image_shape"] == (6, 5, 3)
    assert found["image_channels"] == 3
    assert "image_size" not in found
    data = from_arrays(features, {"train": {"image": PIXELS, "label": LABELS}}, SPLITS)
    train = data.splits["train"].fetch(np.arange(data.num_examples("train")))["label"]
    np.testing.assert_array_equal(data.facts["frequencies"], np.bincount(train, minlength=4))


@pytest.mark.parametrize(
    ("options", "shape"), [({"pad": 2}, (10, 9, 3)), ({"pad": 2, "crop_size": 7}, (7, 7, 3))]
)
def test_the_shape_is_that_which_a_model_sees(options, shape):
    found = facts({"image": kinds.Image((6, 5, 3))}, options, image=PIXELS)
    assert found["image_shape"] == shape
    assert found.get("image_size") == (7 if options.get("crop_size") else None)
    assert "num_classes" not in found


@pytest.mark.parametrize(
    ("key", "feature", "values"),
    [
        ("tags", kinds.Tags(("a", "b")), np.zeros((20, 2))),
        ("numbers", kinds.Numbers(("a", "b")), np.zeros((20, 2))),
        ("classes", kinds.Segmentation(("a", "b"), (2, 2)), np.zeros((20, 2, 2), np.int64)),
    ],
)
def test_what_is_predicted_instead_of_a_class_is_counted_too(key, feature, values):
    found = facts({"row": kinds.Row(("x",)), key: feature}, row=np.zeros((20, 1)), **{key: values})
    assert found["num_classes"] == 2
    assert found["image_shape"] == (1,)
    assert "frequencies" not in found
    assert ("num_tags" in found) == (key == "tags")


def test_beside_tags_the_class_is_what_counts():
    features = {"label": kinds.ClassLabel(("a", "b", "c")), "tags": kinds.Tags(("s", "t"))}
    found = facts(features, label=LABELS, tags=np.zeros((20, 2)))
    assert (found["num_classes"], found["num_tags"]) == (3, 2)


def test_sound_has_a_length_and_a_rate():
    found = facts({"audio": kinds.Audio((9,), 8000)}, audio=np.zeros((20, 9), np.int16))
    assert (found["input_length"], found["audio_rate"]) == (9, 8000)


def test_a_fact_is_measured_once_and_only_when_it_is_asked_for():
    calls = []
    found = Facts({"a": 1}, {"b": lambda: calls.append("b") or 2})
    assert dict.fromkeys(found) == {"a": None, "b": None}
    assert (len(found), "b" in found, "c" in found, calls) == (2, True, False, [])
    assert found["b"] == found["b"] == 2
    assert calls == ["b"]
    with pytest.raises(KeyError):
        found["c"]
