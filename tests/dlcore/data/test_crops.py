"""The squares that are cut out of images."""

import jax
import numpy as np
import pytest

from dlcore.data import crops

IMAGES = np.random.default_rng(0).uniform(size=(2, 7, 9, 3)).astype(np.float32)


def test_a_random_crop_may_be_any_square_inside():
    image = IMAGES[0]
    windows = {
        image[row : row + 5, column : column + 5].tobytes()
        for row in range(3)
        for column in range(5)
    }
    keys = jax.random.split(jax.random.key(0), 400)
    found = np.asarray(jax.vmap(lambda key: crops.random(key, (7, 9), 5).pixels(image))(keys))
    assert {one.tobytes() for one in found} == windows


def test_a_crop_of_the_whole_size_is_the_image():
    square = IMAGES[:, :, :7]
    for cut in (crops.random(jax.random.key(0), (7, 7), 7), crops.center((7, 7), 7)):
        np.testing.assert_array_equal(cut.pixels(square[0]), square[0])


def test_the_five_are_corners_and_center_and_the_ten_their_mirror_images_too():
    five = [
        IMAGES[:, :5, :5],
        IMAGES[:, :5, -5:],
        IMAGES[:, -5:, :5],
        IMAGES[:, -5:, -5:],
        IMAGES[:, 1:-1, 2:-2],
    ]
    mirrored = [np.flip(crop, 2) for crop in five]
    np.testing.assert_array_equal(crops.views(IMAGES, 5, 1), np.stack(five[4:], 1))
    np.testing.assert_array_equal(crops.views(IMAGES, 5, 5), np.stack(five, 1))
    np.testing.assert_array_equal(crops.views(IMAGES, 5, 10), np.stack(five + mirrored, 1))


@pytest.mark.parametrize("side", [2, 5])
def test_the_center_is_as_far_from_both_sides_as_whole_pixels_allow(side):
    grid = np.moveaxis(np.indices((7, 9)), 0, -1).astype(np.float32)
    middle = np.asarray(crops.center((7, 9), side).pixels(grid)).mean((0, 1))
    assert np.abs(middle - [3, 4]).max() <= 0.5
