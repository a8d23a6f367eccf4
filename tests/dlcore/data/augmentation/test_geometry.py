"""Warps as maps of places, their distributions, and what is sampled, against SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from dlcore.data.augmentation import geometry
from dlcore.data.augmentation.moves import Warps

SIZE = (12, 15)
CENTER = (np.array(SIZE) - 1) / 2
GRID = np.indices(SIZE).astype(np.float64)
KEYS = jax.random.split(jax.random.key(0), 400)


def image_of(shape, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 1.0, shape).astype(np.float32)


def maps(warp, strength):
    """For each key the matrix [2, 2] about the center and the shift that best explain a warp."""
    places = jax.jit(
        jax.vmap(lambda key: warp(key, strength, SIZE).source(GRID.astype(np.float32)))
    )(KEYS)
    places = np.asarray(places, np.float64)
    inputs = np.concatenate([(GRID - CENTER[:, None, None]).reshape(2, -1), np.ones((1, 180))])
    outputs = (places - CENTER[:, None, None]).reshape(len(KEYS), 2, -1)
    solved = outputs @ np.linalg.pinv(inputs)
    np.testing.assert_allclose(solved @ inputs, outputs, atol=2e-5)
    return solved[..., :2], solved[..., 2]


def assert_uniform(values, limit):
    """Values in -limit..limit that no test would take for others (p < 0.001)."""
    assert np.abs(values).max() <= limit * (1 + 1e-4)
    assert scipy.stats.kstest(values, "uniform", (-limit, 2 * limit)).pvalue > 1e-3


def test_a_shift_moves_everything_alike_in_both_directions():
    matrix, shift = maps(geometry.shift, 3.0)
    np.testing.assert_allclose(matrix, np.broadcast_to(np.eye(2), matrix.shape), atol=1e-5)
    assert_uniform(shift[:, 0], 3)
    assert_uniform(shift[:, 1], 3)
    assert abs(np.corrcoef(shift.T)[0, 1]) < 0.2


def test_a_rotation_keeps_distances_and_the_center():
    matrix, shift = maps(geometry.rotate, 40.0)
    np.testing.assert_allclose(shift, 0, atol=1e-5)
    products = matrix @ matrix.transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(2), matrix.shape), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-5)
    assert_uniform(np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])), 40)


def test_a_zoom_scales_both_directions_alike():
    matrix, shift = maps(geometry.zoom, 0.3)
    np.testing.assert_allclose(shift, 0, atol=1e-5)
    factor = matrix[:, 0, 0]
    np.testing.assert_allclose(matrix, factor[:, None, None] * np.eye(2), atol=1e-5)
    assert_uniform(factor - 1, 0.3)


def test_a_stretch_scales_each_direction_on_its_own():
    matrix, shift = maps(geometry.stretch, 0.3)
    np.testing.assert_allclose(shift, 0, atol=1e-5)
    np.testing.assert_allclose(matrix * (1 - np.eye(2)), 0, atol=1e-5)
    assert_uniform(matrix[:, 0, 0] - 1, 0.3)
    assert_uniform(matrix[:, 1, 1] - 1, 0.3)
    assert abs(np.corrcoef(matrix[:, 0, 0], matrix[:, 1, 1])[0, 1]) < 0.2


def test_a_shear_moves_rows_sideways():
    matrix, shift = maps(geometry.shear, 0.4)
    np.testing.assert_allclose(shift, 0, atol=1e-5)
    slant = matrix[:, 1, 0].copy()
    matrix[:, 1, 0] = 0
    np.testing.assert_allclose(matrix, np.broadcast_to(np.eye(2), matrix.shape), atol=1e-5)
    assert_uniform(slant, 0.4)


def test_a_perspective_is_the_homography_of_its_corners():
    share, key = 0.2, jax.random.key(1)
    warp = jax.jit(lambda key, places: geometry.perspective(key, share, SIZE).source(places))
    corners = np.array([[0, 0], [0, 14], [11, 0], [11, 14]], np.float64)

    def moved(points):
        return np.asarray(warp(key, points.T[:, None].astype(np.float32)), np.float64)[:, 0].T

    targets = moved(corners)
    # The direct linear transform: eight unknowns, and two equations for each corner.
    equations, values = [], []
    for (row, column), (to_row, to_column) in zip(corners, targets, strict=True):
        equations.append([row, column, 1, 0, 0, 0, -row * to_row, -column * to_row])
        equations.append([0, 0, 0, row, column, 1, -row * to_column, -column * to_column])
        values += [to_row, to_column]
    matrix = np.append(np.linalg.solve(equations, values), 1).reshape(3, 3)
    homogeneous = matrix @ np.concatenate([GRID.reshape(2, -1), np.ones((1, 180))])
    expected = homogeneous[:2] / homogeneous[2]
    np.testing.assert_allclose(moved(GRID.reshape(2, -1).T).T, expected, atol=5e-5)
    # It is no affine map: parallels do not stay parallel.
    assert np.abs(targets[0] + targets[3] - targets[1] - targets[2]).max() > 0.5


def test_a_perspective_moves_every_corner_on_its_own_by_up_to_its_share_of_the_sides():
    corners = np.array([[0, 0, 11, 11], [0, 14, 0, 14]], np.float32)
    apply = jax.vmap(lambda key: geometry.perspective(key, 0.2, SIZE).source(corners[:, None]))
    moves = (np.asarray(jax.jit(apply)(KEYS))[:, :, 0] - corners) / [[11], [14]]
    for move in moves.reshape(len(KEYS), 8).T:
        assert_uniform(move, 0.2)
    correlations = np.corrcoef(moves.reshape(len(KEYS), 8).T) - np.eye(8)
    assert np.abs(correlations).max() < 0.25


def test_an_image_one_pixel_high_has_a_perspective_too():
    image = image_of((1, 5, 1))
    seen = Warps((1, 5), [geometry.perspective(KEYS[0], 0.2, (1, 5))]).pixels(image)
    assert seen.shape == image.shape
    assert bool(jnp.isfinite(seen).all())


@pytest.mark.parametrize("strength", [1.0, 2.5])
def test_an_affine_change_is_scipys_of_the_same_matrix(strength):
    key = jax.random.key(3)
    image = image_of((*SIZE, 2))
    uniform = strength * np.asarray(jax.random.uniform(key, (6,), minval=-1.0), np.float64)
    angle = np.radians(10) * uniform[0]
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scaling = np.diag(1 + 0.1 * uniform[2:4])
    shear = np.array([[1, 0], [0.1 * uniform[1], 1]])
    matrix = rotation @ scaling @ shear
    offset = CENTER + 0.07 * uniform[4:] * SIZE - matrix @ CENTER
    result = Warps(SIZE, [geometry.affine(key, strength, SIZE)]).pixels(image)
    for channel in range(2):
        expected = scipy.ndimage.affine_transform(
            image[..., channel].astype(np.float64), matrix, offset, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(result[..., channel], expected, atol=2e-5)


def test_an_elastic_change_is_scipys_of_the_same_field():
    key, shape, strength = jax.random.key(4), (28, 20), 20.0
    image = image_of((*shape, 1))
    field = np.asarray(jax.random.uniform(key, (2, *shape), minval=-1.0), np.float64)
    smooth = [
        strength * scipy.ndimage.gaussian_filter(part, 4, mode="constant", truncate=8)
        for part in field
    ]
    places = np.indices(shape) + smooth
    expected = scipy.ndimage.map_coordinates(
        image[..., 0].astype(np.float64), places, order=1, mode="grid-constant"
    )
    result = geometry.elastic(key, strength, shape).pixels(image)
    np.testing.assert_allclose(result[..., 0], expected, atol=2e-5)


@pytest.mark.parametrize(("flip", "axis"), [(geometry.flip, 1), (geometry.flip_vertical, 0)])
def test_a_flip_undoes_itself_and_happens_with_its_probability(flip, axis):
    image = image_of((4, 5, 3))

    def apply(key, image, probability=0.3):
        return flip(key, probability, (4, 5)).pixels(image)

    once = jax.vmap(apply, in_axes=(0, None))(KEYS, image)
    twice = jax.vmap(apply)(KEYS, once)
    np.testing.assert_array_equal(twice, np.broadcast_to(image, once.shape))
    flipped = (np.asarray(once) == np.flip(image, axis)).all(axis=(1, 2, 3))
    assert ((np.asarray(once) == image).all(axis=(1, 2, 3)) | flipped).all()
    # Five standard deviations of that coin.
    assert abs(flipped.sum() - 120) < 5 * np.sqrt(400 * 0.3 * 0.7)
    np.testing.assert_array_equal(apply(KEYS[0], image, 1.0), np.flip(image, axis))


def test_a_crop_is_the_image_moved_by_up_to_its_padding_over_background():
    image = image_of((6, 7, 2))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {
        padded[row : row + 6, column : column + 7].tobytes(): (row, column)
        for row in range(5)
        for column in range(5)
    }
    crop = jax.vmap(lambda key: geometry.crop(key, 2, (6, 7)).pixels(image))
    places = {windows[one.tobytes()] for one in np.asarray(crop(KEYS))}
    assert places == set(windows.values())
