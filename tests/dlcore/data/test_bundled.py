"""What comes with scikit-learn, and needs no download."""

import numpy as np
import pytest
from sklearn import datasets

from dlcore.data import bundled, load
from dlcore.data.features import ClassLabel, Numbers, Row, Tags
from dlcore.errors import UsageError


def everything(data, *keys):
    """What is stored under the keys in all splits, in the order of scikit-learn's arrays."""
    order = np.argsort(np.concatenate([split.indices for split in data.splits.values()]))
    parts = [split.fetch(np.arange(len(split))) for split in data.splits.values()]
    return [np.concatenate([part[key] for part in parts])[order] for key in keys]


@pytest.mark.parametrize("name", ["breast_cancer", "iris", "wine"])
def test_a_table_has_scikit_learn_s_rows_and_classes(name, monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    data, reference = load(name), getattr(datasets, f"load_{name}")()
    rows, labels = everything(data, "row", "label")
    np.testing.assert_array_equal(rows, reference.data.astype(np.float32))
    np.testing.assert_array_equal(labels, reference.target)
    assert (rows.dtype, labels.dtype) == (np.float32, np.int32)
    assert data.features == {
        "row": Row(tuple(reference.feature_names)),
        "label": ClassLabel(tuple(reference.target_names)),
    }


def test_diabetes_has_a_number_for_each_row_and_is_scaled_by_the_training_split_alone():
    data = load("diabetes")
    reference = datasets.load_diabetes(scaled=False)
    rows, numbers = everything(data, "row", "numbers")
    np.testing.assert_array_equal(rows, reference.data.astype(np.float32))
    np.testing.assert_array_equal(numbers[:, 0], reference.target)
    assert (numbers.shape, numbers.dtype) == ((442, 1), np.float32)
    assert data.features["numbers"] == Numbers(("progression",))
    (batch,) = data.evaluation_batches("train", data.num_examples("train"))
    seen = np.float64(data.transform(batch, None, False)["row"])
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(0), 1, rtol=1e-5)


def test_batches_of_numbers_are_padded_and_masked_like_others():
    data = load("diabetes")
    batches = list(data.evaluation_batches("test", 50))
    assert [batch["numbers"].shape for batch in batches] == [(50, 1)] * 2
    assert batches[1]["mask"].sum() == data.num_examples("test") - 50
    example = data.example_batch(3)
    assert {key: value.shape for key, value in example.items()} == {
        "row": (3, 10),
        "numbers": (3, 1),
        "mask": (3,),
    }


def test_the_segments_of_a_digit_are_those_that_a_display_lights():
    segments = load("digits_segments")
    (tags,), (labels,) = everything(segments, "tags"), everything(load("digits"), "label")
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
    assert isinstance(segments.features["tags"], Tags)
    names = segments.features["tags"].names
    for digit, shown in lit.items():
        expected = np.array([name in shown.split(", ") for name in names])
        assert (tags[labels == digit] == expected).all()


def test_no_two_digits_have_the_same_code():
    assert len(np.unique(bundled.SEVEN_SEGMENT_CODE, axis=0)) == 10


def test_the_same_examples_are_in_a_split_whatever_is_asked_of_them():
    digits, segments = (load(name).splits["test"].indices for name in ("digits", "digits_segments"))
    np.testing.assert_array_equal(digits, segments)


@pytest.mark.parametrize("name", ["iris", "diabetes"])
def test_a_table_cannot_be_resized(name):
    with pytest.raises(UsageError, match=f"resize is .*, for images: dataset '{name}' has 'row'"):
        load(name, options={"resize": 8})
