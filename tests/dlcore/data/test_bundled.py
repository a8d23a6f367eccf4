"""What comes with scikit-learn, and needs no download."""

import numpy as np
import pytest
from sklearn import datasets

from dlcore.data import Options, bundled, load
from dlcore.errors import UsageError


def everything(data):
    """Stored inputs and labels of all splits, in the order of scikit-learn's arrays."""
    order = np.concatenate([split.indices for split in data.splits.values()])
    parts = [split.fetch(np.arange(len(split))) for split in data.splits.values()]
    inputs, labels = (np.concatenate([part[key] for part in parts]) for key in ("image", "label"))
    return inputs[np.argsort(order)], labels[np.argsort(order)]


@pytest.mark.parametrize("name", ["breast_cancer", "iris", "wine"])
def test_a_table_has_scikit_learn_s_rows_and_classes(name, monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    data, reference = load(name), getattr(datasets, f"load_{name}")()
    inputs, labels = everything(data)
    np.testing.assert_array_equal(inputs, reference.data.astype(np.float32))
    np.testing.assert_array_equal(labels, reference.target)
    assert (data.kind, labels.dtype) == ("image", np.int32)
    assert data.class_names == tuple(reference.target_names)


def test_diabetes_has_a_number_for_each_row_and_is_scaled_by_the_training_split_alone():
    data = load("diabetes")
    reference = datasets.load_diabetes(scaled=False)
    inputs, labels = everything(data)
    np.testing.assert_array_equal(inputs, reference.data.astype(np.float32))
    np.testing.assert_array_equal(labels[:, 0], reference.target)
    assert (data.kind, labels.shape, labels.dtype) == ("numbers", (442, 1), np.float32)
    (batch,) = data.evaluation_batches("train", data.num_examples("train"))
    seen = np.float64(data.transform(batch, None, False)["image"])
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(0), 1, rtol=1e-5)


def test_batches_of_numbers_are_padded_and_masked_like_others():
    data = load("diabetes")
    batches = list(data.evaluation_batches("test", 50))
    assert [batch["label"].shape for batch in batches] == [(50, 1)] * 2
    assert batches[1]["mask"].sum() == data.num_examples("test") - 50
    example = data.example_batch(3)
    assert {key: value.shape for key, value in example.items()} == {
        "image": (3, 10),
        "label": (3, 1),
        "mask": (3,),
    }


def test_the_segments_of_a_digit_are_those_that_a_display_lights():
    tags, labels = everything(load("digits_segments"))[1], everything(load("digits"))[1]
    lit = {
        0: "top, upper right, lower right, bottom, lower left, upper left",
        1: "upper right, lower right",
        2: "top, upper right, middle, lower left, bottom",
        3: "top, upper right, middle, lower right, bottom",
        4: "upper left, upper right, middle, lower right",
        5: "top, upper left, middle, lower right, bottom",
        6: "top, upper left, middle, lower left, lower right, bottom",
        7: "top, upper right, lower right",
        8: "top, upper left, upper right, middle, lower left, lower right, bottom",
        9: "top, upper left, upper right, middle, lower right, bottom",
    }
    names = load("digits_segments").class_names
    for digit, segments in lit.items():
        expected = np.array([name in segments.split(", ") for name in names])
        assert (tags[labels == digit] == expected).all()


def test_no_two_digits_have_the_same_code():
    assert len(np.unique(bundled.SEVEN_SEGMENT_CODE, axis=0)) == 10


def test_the_same_examples_are_in_a_split_whatever_is_asked_of_them():
    digits, segments = (load(name).splits["test"].indices for name in ("digits", "digits_segments"))
    np.testing.assert_array_equal(digits, segments)


@pytest.mark.parametrize("name", ["iris", "diabetes"])
def test_a_table_cannot_be_resized(name):
    with pytest.raises(UsageError, match=f"resize is for images: .* '{name}' have shape"):
        load(name, options=Options(resize=8))
