"""What may lie under each feature, and what is refused rather than cast."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dlcore.data import features as kinds
from dlcore.data.values import stored
from dlcore.errors import UsageError

INDICES = np.array([10, 20, 30])


def store(feature, parts, key="thing"):
    parts = parts if isinstance(parts, dict) else {"": np.asarray(parts)}
    return stored(feature, parts, "split 'train' of dataset 'd'", key, INDICES)


def alone(feature, values):
    return store(feature, values)[""]


@pytest.mark.parametrize(
    ("feature", "values", "dtype"),
    [
        (kinds.Image((2, 2, 1)), np.zeros((3, 2, 2, 1), np.uint8), "uint8"),
        (kinds.Image((2, 2, 1)), np.zeros((3, 2, 2, 1)), "float32"),
        (kinds.Images((5, 2, 2, 1)), np.zeros((3, 5, 2, 2, 1), np.uint8), "uint8"),
        (kinds.Row(("a", "b")), np.zeros((3, 2)), "float32"),
        (kinds.Row(("a", "b")), np.zeros((3, 2), np.int64), "float32"),
        (kinds.Audio((4,), 8000), np.zeros((3, 4), np.int16), "int16"),
        (kinds.Audio((4,), 8000), np.zeros((3, 4)), "float32"),
        (kinds.Series((4, 2)), np.zeros((3, 4, 2), np.int32), "float32"),
        (kinds.Volume((2, 2, 2, 1)), np.zeros((3, 2, 2, 2, 1), np.uint8), "uint8"),
        (kinds.Volume((2, 2, 2, 1)), np.zeros((3, 2, 2, 2, 1), bool), "float32"),
        (kinds.ClassLabel(("a", "b")), np.array([0, 1, 1], np.int64), "int32"),
        (kinds.ClassLabel(("a", "b")), np.array([0, 1, 1], np.uint8), "int32"),
        (kinds.Tags(("a", "b")), np.array([[0, 1]] * 3), "float32"),
        (kinds.Tags(("a", "b")), np.array([[False, True]] * 3), "float32"),
        (kinds.Numbers(("a",)), np.array([[0.5]] * 3), "float32"),
        (kinds.Tokens("abc", 2), np.array([[0, 2]] * 3), "int32"),
        (kinds.Segmentation(("a", "b"), (1, 2), 7), np.array([[[1, 7]]] * 3, np.uint8), "uint8"),
        (kinds.Segmentation((), (1, 2)), np.array([[[1, 300]]] * 3), "int32"),
        (kinds.Text(), np.array(["a", "", "bc"], object), "object"),
    ],
)
def test_each_feature_has_its_own_stored_form(feature, values, dtype):
    result = alone(feature, values)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, values)


@pytest.mark.parametrize(
    ("feature", "values", "message"),
    [
        (kinds.ClassLabel(("a", "b")), [0, 1, 2], r"example 30 has thing 2: it must be in 0\.\.1"),
        (kinds.ClassLabel(("a", "b")), [0, -1, 2], r"example 20 has thing -1: it must be in 0\.\."),
        (kinds.ClassLabel(("a", "b")), [0, 1, 2**32], "example 30 has thing 4294967296"),
        (kinds.ClassLabel(("a", "b")), [0.0, 1.0, 1.0], "'thing' holds float64: classes must"),
        (kinds.ClassLabel(("a", "b")), [[0], [1], [1]], r"examples of shape \(1,\): it must be"),
        (kinds.Numbers(("a",)), [[0], [2**24 + 1], [0]], "example 20 has thing 16777217: float32"),
        (kinds.Numbers(("a",)), [["x"]] * 3, "'thing' holds <U1: it must be numbers"),
        (kinds.Numbers(("a",)), [[0], [1e300], [0]], "example 20 holds NaN or infinity in its"),
        (kinds.Row(("a", "b")), [[0, 1], [2, 3], [np.nan, 1]], "example 30 holds NaN or infinity"),
        (kinds.Row(("a", "b")), np.zeros((3, 3)), r"examples of shape \(3,\): it must be \(2,\)"),
        (kinds.Tags(("a", "b")), [[0, 1], [0, 0.5], [1, 1]], "example 20 has thing 0.5: it must"),
        (kinds.Image((1, 1, 1)), np.zeros((3, 1, 1, 1), np.int64), "pixels must be uint8 in 0"),
        (kinds.Tokens("ab", 1), [[0], [1], [2]], r"example 30 has thing 2: it must be in 0\.\.1"),
        (kinds.Segmentation(("a",), (1, 1), 9), [[[0]], [[9]], [[1]]], "example 30 has thing 1: "),
        (kinds.Text(), ["a", "b", "c"], "'thing' holds <U1: it must be an array of Python"),
    ],
)  # fmt: skip
def test_what_a_feature_cannot_hold_is_named_and_not_cast(feature, values, message):
    with pytest.raises(UsageError, match=f"split 'train' of dataset 'd': .*{message}") as refused:
        store(feature, values)
    assert "\n" not in str(refused.value)


BOXES = kinds.Boxes(("a", "b"), 2)
GOOD = {
    "": np.array([[[0, 0, 0.5, 1], [0, 0, 0, 0]]] * 3),
    "_label": np.array([[1, 0]] * 3),
    "_mask": np.array([[1, 0]] * 3),
}


def test_boxes_are_corners_classes_and_a_mask():
    result = store(BOXES, GOOD)
    assert {part: array.dtype for part, array in result.items()} == {
        "": np.float32,
        "_label": np.int32,
        "_mask": np.float32,
    }
    for part, array in GOOD.items():
        np.testing.assert_array_equal(result[part], array)


def test_what_rounding_put_outside_is_moved_to_the_border_and_padding_is_zero():
    corners = GOOD[""].copy()
    corners[1, 0, 3], corners[2, 1] = 1.0001, 77
    labels = np.array([[1, 0], [1, 0], [1, 9]])
    result = store(BOXES, {**GOOD, "": corners, "_label": labels})
    assert result[""][1, 0].tolist() == [0, 0, 0.5, 1]
    assert not result[""][2, 1].any()
    assert result["_label"][2].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("", 1.5, "example 20 has thing 1.5: a corner must be in 0..1"),
        ("", -1, "example 20 has thing -1.0: a corner must be in 0..1"),
        ("_label", 2, r"example 20 has thing 2: it must be in 0\.\.1"),
        ("_mask", 0.5, "example 20 has thing 0.5: a mask must be 0 or 1"),
    ],
)
def test_impossible_boxes_are_named(part, value, message):
    array = GOOD[part].astype(np.float64 if part != "_label" else np.int64)
    array[1, 0, ...] = value
    with pytest.raises(UsageError, match=message):
        store(BOXES, {**GOOD, part: array})


def test_a_box_that_ends_before_it_begins_is_named():
    corners = GOOD[""].copy()
    corners[2, 0] = [0.5, 0, 0.25, 1]
    with pytest.raises(UsageError, match="example 30 has thing 0.25: ymax and xmax must not be"):
        store(BOXES, {**GOOD, "": corners})


def test_a_part_that_is_missing_is_named():
    with pytest.raises(UsageError, match="it needs the arrays thing, thing_label, thing_mask"):
        store(BOXES, {"": GOOD[""]})
    padded = kinds.Series((4,), padded=True)
    with pytest.raises(UsageError, match="'thing' is a series: it needs the arrays thing, thing_l"):
        store(padded, np.zeros((3, 4)))
    with pytest.raises(UsageError, match=r"example 30 has thing 5: it must be in 0\.\.4"):
        store(padded, {"": np.zeros((3, 4)), "_length": np.array([0, 4, 5])})


@given(arrays.arrays(np.int64, 3))
def test_whole_numbers_are_kept_exactly_or_refused(values):
    try:
        result = alone(kinds.Numbers(("a",)), values[:, None])
    except UsageError:
        assert np.abs(values.astype(np.float64)).max() > 2**24
    else:
        assert [int(value) for value in result[:, 0]] == values.tolist()


@given(st.integers(1, 5), arrays.arrays(np.int64, 3, elements=st.integers(-2, 6)))
def test_classes_are_kept_or_refused(count, values):
    feature = kinds.ClassLabel(tuple(map(str, range(count))))
    if ((values >= 0) & (values < count)).all():
        np.testing.assert_array_equal(alone(feature, values), values)
    else:
        with pytest.raises(UsageError, match=f"it must be in 0..{count - 1}"):
            alone(feature, values)


def test_features_say_what_is_not_settled():
    unsettled = {
        kinds.Image((None, None, 3)): "set resize",
        kinds.Segmentation((), (None, 4)): "set resize",
        kinds.Images((2, None, 4, 1)): "set resize",
        kinds.Volume((4, None, None, 1)): "set resize",
        kinds.Audio((None,)): "set length",
        kinds.Volume((None, 4, 4, 1)): "set length",
        kinds.Series((None, 2)): "set length",
        kinds.Series((5, None)): "do not fit into one array",
        kinds.Images((None, 4, 4, 1)): "do not fit into one array",
    }
    for feature, reason in unsettled.items():
        assert reason in feature.unsettled
        known = tuple(size or 4 for size in feature.shape)
        assert not dataclasses.replace(feature, shape=known).unsettled
