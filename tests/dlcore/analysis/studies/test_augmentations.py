"""The gallery of augmentations: what is in which row."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def gallery():
    return studies.create(
        "augmentations", augment="flip:1,flip_vertical:1,brightness:0.3", digits=2, photographs=3
    )


@pytest.fixture(scope="module")
def numbers(gallery):
    return gallery.run()


@pytest.mark.parametrize(
    ("kind", "shape"), [("digits", (2, 28, 28, 1)), ("photographs", (3, 112, 112, 3))]
)
def test_the_first_row_has_the_originals_and_every_other_row_one_change_of_them(
    numbers, kind, shape
):
    original, flipped, upside_down, brighter = numbers[kind]
    assert original.shape == shape
    assert original.std() > 0.1
    np.testing.assert_array_equal(flipped, original[:, :, ::-1])
    np.testing.assert_array_equal(upside_down, original[:, ::-1])
    added = (brighter - original).reshape(shape[0], -1)
    np.testing.assert_allclose(added, added[:, :1].repeat(added.shape[1], axis=1), atol=1e-6)
    assert len(np.unique(added[:, 0].round(4))) == shape[0]


def test_the_change_is_the_mean_over_digits_and_photographs(numbers):
    expected = [
        np.abs(images[1] - images[0]).mean()
        for images in (numbers["digits"], numbers["photographs"])
    ]
    assert numbers["flip:1"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_figure_shows_every_image_and_names_every_row(gallery, numbers):
    (axes,) = gallery.draw(numbers).axes
    assert len(axes.images) == 4 * 5
    captions = [text.get_text() for text in axes.texts if text.get_text()]
    assert captions == ["original", "flip:1", "flip_vertical:1", "brightness:0.3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": ""}, "augment is empty"),
        ({"augment": "mirror"}, "unknown augmentation 'mirror'"),
        ({"digits": 0}, "digits=0: it must be at least 1"),
        ({"photographs": 0}, "photographs=0"),
    ],
)
def test_what_shows_nothing_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        studies.create("augmentations", **options)
