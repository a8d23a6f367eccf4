"""Pictures that are drawn."""

import numpy as np
import pytest

from dlcore.data import load
from dlcore.errors import UsageError

SMALL = {"image_size": 9, "channels": 2, "num_classes": 3, "num_examples": 60}


def images_and_labels(options, split="train"):
    data = load("synthetic", options=options)
    batch = data.splits[split].fetch(np.arange(data.num_examples(split)))
    return batch["image"], batch["label"]


def test_pictures_have_the_size_and_the_classes_that_are_asked_for():
    data = load("synthetic", options=SMALL)
    assert data.facts["image_shape"] == (9, 9, 2)
    assert data.facts["num_classes"] == 3
    sizes = {split: data.num_examples(split) for split in data.splits}
    assert sizes == {"train": 60, "validation": 6, "test": 6}
    images, labels = images_and_labels(SMALL)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(labels), [20, 20, 20])


def test_an_example_is_the_same_whoever_asks_for_it_and_no_other_is():
    data = load("synthetic", options=SMALL)
    train = data.splits["train"]
    alone = [train.fetch(np.array([place]))["image"][0] for place in (7, 3, 7)]
    together = train.fetch(np.arange(60))["image"]
    for one, place in zip(alone, (7, 3, 7), strict=True):
        np.testing.assert_array_equal(one, together[place])
    other_seed, _ = images_and_labels({**SMALL, "drawing_seed": 1})
    validation, _ = images_and_labels(SMALL, "validation")
    every = np.concatenate([together, other_seed, validation]).reshape(-1, 9 * 9 * 2)
    assert len(np.unique(every, axis=0)) == 60 + 60 + 6


def test_a_size_that_all_images_get_is_that_of_the_pictures():
    images, _ = images_and_labels({**SMALL, "resize": 6})
    assert images.shape == (60, 6, 6, 2)


def test_a_test_split_by_another_name_is_there_as_in_imagenet():
    data = load("synthetic", options={**SMALL, "splits": "test:validation"})
    sizes = {split: data.num_examples(split) for split in data.splits}
    assert sizes == {"train": 54, "validation": 6, "test": 6}


def test_classes_can_be_told_apart_by_their_mean_pictures():
    images, labels = images_and_labels(SMALL)
    unseen, truth = images_and_labels(SMALL, "test")
    means = np.stack([images[labels == label].mean(0) for label in range(3)])
    distance = np.square(unseen[:, None] - means).sum((2, 3, 4))
    np.testing.assert_array_equal(distance.argmin(1), truth)
    # A pixel is half its cell and half noise, uniform in 0..255.
    residuals = images - means[labels]
    assert residuals.std() == pytest.approx(256 / np.sqrt(12) / 2, rel=0.05)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"image_size": 0}, "image_size=0: it must be at least 1"),
        ({"channels": 0}, "channels=0"),
        ({"num_classes": 1}, "num_classes=1: it must be at least 2"),
        ({"num_examples": 9}, "num_examples=9: it must be at least 10"),
        ({"drawing_seed": -1}, "drawing_seed=-1: it must be at least 0"),
    ],
)
def test_a_number_out_of_range_is_refused(option, message):
    with pytest.raises(UsageError, match=message):
        load("synthetic", options=option)
