"""Sources of examples: what is read of them, and when."""

import numpy as np
import pytest

from dlcore.data import sources
from dlcore.data.features import Boxes, Image
from dlcore.errors import UsageError

FEATURES = {"image": Image((2, 2, 1)), "boxes": Boxes(("a", "b"), 2)}


class Counted(sources.Arrays):
    """Ten examples; remembers what was read of them."""

    streams = True

    def __init__(self):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (10, 2, 2, 1), dtype=np.uint8)
        self.mask = np.arange(20).reshape(10, 2) % 2
        corners = np.sort(rng.uniform(size=(10, 2, 2, 2)), axis=2).reshape(10, 2, 4)
        arrays = {
            "image": self.images,
            "boxes": corners,
            "boxes_label": np.ones((10, 2), np.int64),
            "boxes_mask": self.mask,
        }
        super().__init__(FEATURES, arrays)
        self.read = []

    def fetch(self, indices, names):
        self.read.append(tuple(names))
        return super().fetch(indices, names)


def test_holding_a_source_keeps_every_example_in_its_place(monkeypatch):
    monkeypatch.setattr(sources, "_CHUNK", 4)
    counted = Counted()
    held = sources.Held(counted, lambda names, make: make(names))
    assert counted.read == []
    order = np.array([9, 0, 4, 4])
    found = held.fetch(order, ["image"])
    np.testing.assert_array_equal(found["image"][""], counted.images[order])
    both = held.fetch(order, ["image", "boxes"])
    np.testing.assert_array_equal(both["boxes"]["_mask"], counted.mask[order])
    assert both["boxes"][""].dtype == np.float32
    # The first of ten examples, and the others in three chunks, each feature once.
    assert counted.read == [("image",)] * 4 + [("boxes",)] * 4
    assert (len(held), held.streams) == (10, False)


def test_a_split_numbers_its_own_examples_and_gives_them_its_own_keys():
    split = sources.Split(Counted(), np.array([7, 2, 5]), {"things": "boxes"})
    found = split.fetch(np.array([2, 0]))
    assert set(found) == {"things", "things_label", "things_mask"}
    np.testing.assert_array_equal(found["things_mask"], Counted().mask[[5, 7]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((3, 2, 2, 1))}, "'boxes' is boxes: it needs the arrays boxes, boxes_l"),
        ({"image": np.zeros((3, 2, 2, 1)), "boxes": np.zeros((2, 1, 4))}, "3 in image, 2 in boxes"),
        ({}, "all arrays must have the same number of examples: there are none"),
        ({"image": np.zeros((3, 2, 2, 1)), "extra": np.zeros(3)}, "no feature describes extra"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(arrays, message):
    with pytest.raises(UsageError, match=message):
        sources.Arrays(FEATURES, arrays)
