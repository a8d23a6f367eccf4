"""Images, segmentations and boxes go together, whatever moves them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore.data import augmentation, crops
from dlcore.data.augmentation import moves
from dlcore.data.features import Boxes, Image, Segmentation
from dlcore.errors import UsageError

SIZE, IGNORE = (24, 32), 9
FEATURES = {
    "image": Image((*SIZE, 1)),
    "classes": Segmentation(("out", "in"), SIZE, IGNORE),
    "boxes": Boxes(("thing", "other"), 3),
}
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=20, deadline=None)
# What moves boxes along, at strengths that leave much to see.
MOVES = (
    "flip:1",
    "flip_vertical:1",
    "crop:5",
    "shift:4",
    "rotate:40",
    "zoom:0.3",
    "stretch:0.3",
    "shear:0.3",
    "affine:2",
    "perspective:0.15",
    "rotate:20,flip,perspective:0.1,zoom:0.2",
)


def example_of(seed, count=2):
    """An image in which rectangles of ones lie, their class for every pixel, and their boxes."""
    rng = np.random.default_rng(seed)
    image, boxes = np.zeros((*SIZE, 1), np.float32), np.zeros((3, 4), np.float32)
    for number in range(count):
        sides = rng.integers(4, 9, 2)
        first = rng.integers(0, np.array(SIZE) - sides + 1)
        last = first + sides
        image[first[0] : last[0], first[1] : last[1]] = 1
        boxes[number] = np.concatenate([first / SIZE, last / SIZE])
    return {
        "image": image,
        "classes": image[..., 0].astype(np.int32),
        "boxes": boxes,
        "boxes_label": np.array([1, 0, 0], np.int32) * (np.arange(3) < count),
        "boxes_mask": (np.arange(3) < count).astype(np.float32),
    }


@functools.cache
def moved(text):
    change = augmentation.compose(augmentation.parse(text), FEATURES)
    compiled = jax.jit(change)
    return lambda seed, example: jax.device_get(compiled(jax.random.key(seed), example))


def pixels_in(box):
    """The rows and columns of pixels whose center lies in a box."""
    rows, columns = ((np.arange(size) + 0.5) / size for size in SIZE)
    return np.logical_and.outer(
        (rows > box[0]) & (rows < box[2]), (columns > box[1]) & (columns < box[3])
    )


@few
@given(seeds, st.sampled_from(["flip:1", "flip_vertical:1"]))
def test_a_mirror_twice_is_the_picture_again(seed, text):
    example = example_of(seed)
    twice = moved(text)(0, moved(text)(0, example))
    for key, array in example.items():
        np.testing.assert_allclose(twice[key], array, atol=1e-6)
    assert (moved(text)(0, example)["boxes"] != example["boxes"]).any()


@pytest.mark.slow
@few
@given(seeds, st.sampled_from(MOVES))
def test_a_moved_segmentation_is_that_of_the_moved_image(seed, text):
    result = moved(text)(seed, example_of(seed))
    image, classes = result["image"][..., 0], result["classes"]
    assert classes.dtype == np.int32
    assert set(np.unique(classes)) <= {0, 1, IGNORE}
    # Between pixels of both classes the image is blurred, and either class is as good.
    inside, outside = np.isclose(image, 1), np.isclose(image, 0)
    assert (classes[inside] == 1).all()
    assert (classes[outside] != 1).all()


@pytest.mark.parametrize("text", MOVES)
def test_background_is_ignored_and_nothing_else_is(text):
    ones = {"image": np.ones((*SIZE, 1), np.float32), "classes": np.ones(SIZE, np.int32)}
    for seed in range(5):
        result = moved(text)(seed, ones)
        image, classes = result["image"][..., 0], result["classes"]
        assert (classes[np.isclose(image, 0)] == IGNORE).all()
        assert (classes[np.isclose(image, 1)] == 1).all()


@few
@given(seeds, st.sampled_from(MOVES))
def test_a_moved_box_is_around_all_that_is_left_of_its_thing(seed, text):
    example = example_of(seed, count=1)
    result = moved(text)(seed, example)
    seen = result["image"][..., 0] > 0.999
    if result["boxes_mask"][0]:
        (ymin, xmin, ymax, xmax), *padding = result["boxes"]
        assert 0 <= ymin <= ymax <= 1
        assert 0 <= xmin <= xmax <= 1
        # An image shows a pixel where its center is.
        grown = np.array([ymin, xmin, ymax, xmax]) + np.repeat([-1, 1], 2) * 1e-4
        assert not (seen & ~pixels_in(grown)).any()
        assert not np.any(padding)
        assert result["boxes_label"].tolist() == [1, 0, 0]
    else:
        assert not result["boxes"].any()
        assert not result["boxes_label"].any()
    assert result["boxes_mask"][1:].tolist() == [0, 0]


@few
@given(seeds, st.sampled_from(["flip:1", "crop:5", "shift:4", "stretch:0.3"]))
def test_a_box_that_does_not_turn_fits_its_thing(seed, text):
    example = example_of(seed, count=1)
    result = moved(text)(seed, example)
    seen = result["image"][..., 0] > 0.5
    if result["boxes_mask"][0] and seen.any():
        rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
        around = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        # Whole pixels against a box between pixels.
        assert np.abs(result["boxes"][0] * (*SIZE, *SIZE) - around).max() <= 1


class Cornered(moves.Cut):
    """The upper left part of a picture."""

    def __init__(self, height, width):
        super().__init__(SIZE, 0, jnp.zeros(2, jnp.int32), (height, width))


@pytest.mark.parametrize(("rows", "stays"), [(0, False), (3, False), (5, True), (12, True)])
def test_a_box_of_which_less_than_a_third_remains_is_dropped(rows, stays):
    example = example_of(0, count=0)
    example["boxes"][1] = [0.25, 0, 0.75, 0.5]
    example["boxes_mask"][1] = example["boxes_label"][1] = 1
    # Its twelve rows begin at the sixth.
    result = moves.moved(example, FEATURES, Cornered(6 + rows, 32))
    assert result["boxes_mask"].tolist() == [0, float(stays), 0]
    expected = [6 / (6 + rows), 0, 1, 0.5] if stays else [0, 0, 0, 0]
    np.testing.assert_allclose(result["boxes"][1], expected, atol=1e-6)


@jax.jit
def cut_out(seed, example):
    cut = crops.random(jax.random.key(seed), SIZE, 15)
    return moves.moved(example, FEATURES, cut), cut.first


@few
@given(seeds)
def test_a_square_cut_out_shows_the_same_of_all_three(seed):
    example, side = example_of(seed), 15
    result, first = jax.device_get(cut_out(seed, example))
    image = result["image"][..., 0]
    np.testing.assert_array_equal(result["classes"], image.astype(np.int32))
    row, column = first
    np.testing.assert_array_equal(
        result["image"], example["image"][row : row + side, column : column + side]
    )
    kept = result["boxes_mask"] > 0
    expected = (example["boxes"] * (*SIZE, *SIZE) - [row, column, row, column]) / side
    np.testing.assert_allclose(result["boxes"][kept], expected[kept].clip(0, 1), atol=1e-5)


def test_what_is_padded_is_background_and_boxes_shrink():
    example = example_of(3)
    padded = moves.Cut(SIZE, 4, jnp.zeros(2, jnp.int32), (32, 40))
    result = moves.moved(example, FEATURES, padded)
    np.testing.assert_array_equal(
        result["classes"], np.pad(example["classes"], 4, constant_values=IGNORE)
    )
    real = example["boxes_mask"] > 0
    expected = (example["boxes"] * (*SIZE, *SIZE) + 4) / (32, 40, 32, 40)
    np.testing.assert_allclose(result["boxes"][real], expected[real], atol=1e-6)
    # With nothing to ignore, background is class 0.
    features = {"classes": Segmentation(("out", "in"), SIZE)}
    result = moves.moved({"classes": np.ones(SIZE, np.int32)}, features, padded)
    np.testing.assert_array_equal(result["classes"], np.pad(np.ones(SIZE), 4))


@pytest.mark.parametrize("name", ["shift", "rotate", "zoom", "stretch", "shear", "affine"])
def test_the_way_back_undoes_a_warp(name):
    check_way_back(name, 5 / 9)


def test_the_way_back_undoes_a_perspective():
    check_way_back("perspective", 0.2)


def check_way_back(name, strength):
    warp = augmentation.AUGMENTATIONS[name].change(jax.random.key(3), strength, SIZE)
    places = np.random.default_rng(0).uniform(0, 30, (2, 50)).astype(np.float32)
    assert np.abs(warp.source(places) - places).max() > 0.05
    np.testing.assert_allclose(warp.target(warp.source(places)), places, atol=1e-3)


def test_two_images_move_alike():
    features = {"image": Image((*SIZE, 1)), "other": Image((*SIZE, 3))}
    image = example_of(1)["image"]
    example = {"image": image, "other": np.repeat(image, 3, -1)}
    change = augmentation.compose(augmentation.parse("rotate:30,flip,crop:3"), features)
    result = change(jax.random.key(0), example)
    np.testing.assert_array_equal(result["other"], np.repeat(result["image"], 3, -1))
    example["other"] = example["other"][:9]
    with pytest.raises(UsageError, match="different sizes .* image 24 x 32, other 9 x 32"):
        change(jax.random.key(0), example)


@pytest.mark.parametrize(
    ("side", "count"), [(28, 14), (82, 41), (94, 47), (110, 55), (9, 9), (7, 3)]
)
def test_a_place_on_a_border_shows_the_second_pixel_when_compiled_too(side, count):
    def shown(sides):
        window = moves.Window((side, side), jnp.zeros(2), sides, (count, count))
        return window.classes(jnp.arange(side * side).reshape(side, side), 0)

    # The middle of the place i is (2 i + 1) side / (2 count), in whole numbers.
    index = (2 * np.arange(count) + 1) * side // (2 * count)
    expected = index[:, None] * side + index
    np.testing.assert_array_equal(jax.jit(shown)(jnp.full(2, float(side))), expected)
    np.testing.assert_array_equal(shown(jnp.full(2, float(side))), expected)
