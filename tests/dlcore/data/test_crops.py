"""The squares that are cut out of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from dlcore.data import crops, features, from_arrays

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


def boxed(image, window):
    """The window by Pillow: an independent resampling of a box with fractions of pixels."""
    (top, left), (height, width) = np.asarray(window.first), np.asarray(window.sides)
    box = (left, top, left + width, top + height)
    planes = [
        Image.fromarray(plane).resize(window.cut[::-1], Image.Resampling.BILINEAR, box=box)
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


WINDOWS = {
    "of scales": lambda key: crops.of_scales(key, (40, 50), 16, (18, 60)),
    "of areas": lambda key: crops.of_areas(key, (40, 50), 16, 0.1),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_window_shows_what_pillow_shows_of_that_box(kind):
    image = np.random.default_rng(1).uniform(size=(40, 50, 2)).astype(np.float32)
    for seed in range(8):
        window = WINDOWS[kind](jax.random.key(seed))
        np.testing.assert_allclose(window.pixels(image), boxed(image, window), atol=1e-5)


@pytest.mark.parametrize("kind", WINDOWS)
def test_segmentation_and_points_go_with_a_window(kind):
    rows, columns = np.indices((40, 50)).astype(np.float32) + 0.5
    places = np.stack([rows, columns], -1)
    for seed in range(8):
        window = WINDOWS[kind](jax.random.key(seed))
        seen = np.asarray(window.classes(rows.astype(np.int32), 0)) + 0.5
        grid = (np.arange(16) + 0.5) / 16
        shown = np.asarray(window.first) + grid[:, None] * np.asarray(window.sides)
        np.testing.assert_allclose(seen, np.broadcast_to(shown[:, :1], (16, 16)), atol=0.501)
        # A point lies where the pixel that shows it does.
        back = window.points(shown / np.array([40, 50]))
        np.testing.assert_allclose(back, np.stack([grid, grid], -1), atol=1e-5)
        interior = np.asarray(window.pixels(places))[4:12, 4:12]
        expected = np.stack(np.meshgrid(*shown[4:12].T, indexing="ij"), -1)
        np.testing.assert_allclose(interior, expected, atol=0.2)


def drawn(of_key, count=3000):
    """Sides of many windows, `[count, 2]`, after a look at where they lie."""

    @jax.jit
    @jax.vmap
    def draw(key):
        window = of_key(key)
        return window.first, window.sides, jnp.array(window.size) - window.sides

    first, sides, last = map(np.asarray, draw(jax.random.split(jax.random.key(0), count)))
    assert (first >= 0).all()
    assert (first <= last + 1e-4).all()
    shares = first[last > 1] / last[last > 1]
    assert scipy.stats.kstest(shares, "uniform").pvalue > 1e-3
    return sides


def test_every_shorter_side_is_equally_likely():
    shorter = 16 * 40 / drawn(lambda key: crops.of_scales(key, (40, 50), 16, (16, 20)))
    np.testing.assert_array_equal(shorter[:, 0], shorter[:, 1])
    found, counts = np.unique(shorter[:, 0].round(3), return_counts=True)
    np.testing.assert_array_equal(found, [16, 17, 18, 19, 20])
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_areas_and_proportions_are_equally_likely():
    height, width = drawn(lambda key: crops.of_areas(key, (60, 60), 16, 0.2)).T / 60
    assert max(height.max(), width.max()) <= 1
    # Of less than three quarters of the area no proportion is too long.
    small = height * width < 0.75
    assert (height * width).min() > 0.2 - 1e-6
    for values, low, high in (
        ((height * width)[small], 0.2, 0.75),
        (np.log(width / height)[small], np.log(3 / 4), np.log(4 / 3)),
    ):
        assert scipy.stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


def test_a_training_batch_is_cut_out_as_the_options_say_and_a_test_is_not():
    arrays = {"train": {"image": np.full((20, 12, 12, 1), 0.5, np.float32)}}
    for options in ({"crop_scales": (8, 16)}, {"crop_area": 0.2}):
        options = {"crop_size": 8, "normalize": "none", **options}
        data = from_arrays({"image": features.Image((12, 12, 1))}, arrays, options)
        batch = data.example_batch(4)
        batch["image"] = np.random.default_rng(0).uniform(size=(4, 12, 12, 1)).astype(np.float32)
        plain = data.transform(batch, None, False)["image"]
        np.testing.assert_array_equal(plain, batch["image"][:, 2:10, 2:10])
        first, second = (
            data.transform(batch, jax.random.key(seed), True)["image"] for seed in range(2)
        )
        assert first.shape == (4, 8, 8, 1)
        assert np.abs(np.asarray(first) - second).max(axis=(1, 2, 3)).min() > 0.01
