"""Images and filters are drawn as they are; how they look was judged by eye."""

import numpy as np
import pytest

from dlcore import plots
from dlcore.errors import UsageError


def test_gray_filters_share_one_scale_around_zero():
    kernel = np.zeros((3, 2, 1, 4), np.float32)
    kernel[2, 0, 0, 3] = -0.5
    axes, bar = plots.filters(kernel).axes
    assert len(axes.images) == 4
    assert {image.get_clim() for image in axes.images} == {(-0.5, 0.5)}
    np.testing.assert_array_equal(axes.images[3].get_array(), kernel[:, :, 0, 3])
    assert bar.get_title("left") == "weight"


def test_color_filters_are_stretched_to_the_range_of_all():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 5)).astype(np.float32)
    (axes,) = plots.filters(kernel).axes
    drawn = np.stack([image.get_array() for image in axes.images])
    assert (drawn.min(), drawn.max()) == (0.0, 1.0)
    expected = (kernel - kernel.min()) / np.ptp(kernel)
    np.testing.assert_allclose(np.moveaxis(drawn, 0, -1), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 2, 4), (3, 3, 1), (4, 5)])
def test_a_kernel_that_is_no_image_filter_is_refused(shape):
    with pytest.raises(UsageError, match="shape .* cannot be drawn"):
        plots.filters(np.zeros(shape))


def test_an_image_grid_shows_each_image_over_its_caption():
    images = np.linspace(-1, 1, 5 * 4).reshape(5, 2, 2)
    captions = list("abcde")
    (axes,) = plots.image_grid(images, captions, columns=3, value_range=(-1, 1)).axes
    for image, picture, caption in zip(axes.images, images, axes.texts, strict=True):
        np.testing.assert_allclose(image.get_array(), (picture + 1) / 2, atol=1e-6)
        left, right, bottom, _ = image.get_extent()
        x, y = caption.get_position()
        assert left < x < right
        assert y < bottom
    assert [text.get_text() for text in axes.texts] == captions
    rows = {image.get_extent()[3] for image in axes.images}
    assert len(rows) == 2


def test_images_may_have_colors():
    images = np.random.default_rng(0).uniform(size=(2, 4, 4, 3))
    (axes,) = plots.image_grid(images).axes
    np.testing.assert_allclose(axes.images[1].get_array(), images[1], atol=1e-6)


def test_integers_are_drawn_from_0_to_255():
    images = np.asarray([[[0, 51], [204, 255]]], np.uint8)
    (axes,) = plots.image_grid(images).axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[0, 0.2], [0.8, 1]], atol=1e-6)


def test_no_image_is_refused():
    with pytest.raises(UsageError, match="no image"):
        plots.image_grid(np.zeros((0, 8, 8)))
