"""Sources of examples, and what is refused in them."""

import numpy as np
import pytest

from dlcore.data import sources
from dlcore.errors import UsageError


def test_holding_a_source_keeps_every_example_in_its_place(monkeypatch):
    monkeypatch.setattr(sources, "_CHUNK", 4)
    images = np.random.default_rng(0).integers(0, 256, (10, 2, 3, 1), dtype=np.uint8)
    held = sources.hold(sources.Arrays(images, np.arange(10, dtype=np.int32)))
    np.testing.assert_array_equal(held.images, images)
    np.testing.assert_array_equal(held.labels, np.arange(10))
    assert (held.dtype, held.shape, len(held)) == (np.uint8, (2, 3, 1), 10)


def test_bytes_are_those_of_the_decoded_images():
    arrays = sources.Arrays(np.zeros((10, 2, 3, 1), np.float32), np.zeros(10, np.int32))
    assert sources.num_bytes(arrays) == arrays.images.nbytes


def test_a_split_numbers_its_own_examples():
    arrays = sources.Arrays(np.arange(10.0)[:, None], np.arange(10))
    split = sources.Split(arrays, np.array([7, 2, 5]))
    assert split.fetch(np.array([2, 0]))["label"].tolist() == [5, 7]


@pytest.mark.parametrize("value", [-1, 3])
def test_a_label_out_of_range_is_named_with_its_index(value):
    labels = np.array([0, 2, value, 1])
    with pytest.raises(UsageError, match=f"train: example 30 has label {value}: .* in 0..2"):
        sources.check("train", np.arange(4) * 15, np.zeros((4, 1), np.uint8), labels, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_input_that_is_no_number_is_named_with_its_index(value):
    images = np.zeros((5, 2, 2, 1), np.float32)
    images[3, 1, 0] = value
    with pytest.raises(UsageError, match="test: example 3 holds NaN or infinity"):
        sources.check("test", np.arange(5), images, np.zeros(5, np.int32), 1)
