"""The random changes of training images, against SciPy where they interpolate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from dlcore.data import augmentation
from dlcore.errors import UsageError


def image_of(shape, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 1.0, shape).astype(np.float32)


@pytest.mark.parametrize("name", augmentation.AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 14, 3)])
def test_shape_and_range_stay(name, shape):
    keys = jax.random.split(jax.random.key(0), 16)
    augment = jax.jit(jax.vmap(augmentation.parse(name), in_axes=(0, None)))
    images = augment(keys, image_of(shape))
    assert images.shape == (16, *shape)
    assert images.dtype == jnp.float32
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    # Sixteen keys do not all decide alike.
    assert len({image.tobytes() for image in np.asarray(images)}) > 1


def test_a_flip_undoes_itself_and_happens_half_the_time():
    image = image_of((4, 5, 3))
    keys = jax.random.split(jax.random.key(1), 400)
    once = jax.vmap(augmentation.flip, in_axes=(0, None))(keys, image)
    np.testing.assert_array_equal(
        jax.vmap(augmentation.flip)(keys, once), np.broadcast_to(image, once.shape)
    )
    flipped = (np.asarray(once) == image[:, ::-1]).all(axis=(1, 2, 3))
    assert ((np.asarray(once) == image).all(axis=(1, 2, 3)) | flipped).all()
    # Five standard deviations of a fair coin.
    assert abs(flipped.sum() - 200) < 50


def test_a_crop_is_the_image_moved_by_up_to_four_pixels_over_background():
    image = image_of((6, 7, 2))
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = {
        padded[row : row + 6, column : column + 7].tobytes(): (row, column)
        for row in range(9)
        for column in range(9)
    }
    keys = jax.random.split(jax.random.key(2), 600)
    crops = np.asarray(jax.vmap(augmentation.crop, in_axes=(0, None))(keys, image))
    places = {windows[crop.tobytes()] for crop in crops}
    assert {row for row, _ in places} == {column for _, column in places} == set(range(9))


def test_an_affine_change_is_scipys_of_the_same_matrix():
    key, shape = jax.random.key(3), (12, 15)
    image = image_of((*shape, 2))
    uniform = np.asarray(jax.random.uniform(key, (6,), minval=-1.0), np.float64)
    angle = np.radians(10) * uniform[0]
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scaling = np.diag(1 + 0.1 * uniform[2:4])
    shear = np.array([[1, 0], [0.1 * uniform[1], 1]])
    matrix = rotation @ scaling @ shear
    centre = (np.array(shape) - 1) / 2
    offset = centre + 0.07 * uniform[4:] * shape - matrix @ centre
    for channel, result in zip(
        np.moveaxis(image, -1, 0), jnp.moveaxis(augmentation.affine(key, image), -1, 0), strict=True
    ):
        expected = scipy.ndimage.affine_transform(
            channel.astype(np.float64), matrix, offset, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(result, expected, atol=2e-5)


def test_an_elastic_change_is_scipys_of_the_same_field():
    key, shape = jax.random.key(4), (28, 20)
    image = image_of((*shape, 1))
    field = np.asarray(jax.random.uniform(key, (2, *shape), minval=-1.0), np.float64)
    smooth = [
        34 * scipy.ndimage.gaussian_filter(part, 4, mode="constant", truncate=8) for part in field
    ]
    places = np.indices(shape) + smooth
    expected = scipy.ndimage.map_coordinates(
        image[..., 0].astype(np.float64), places, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(augmentation.elastic(key, image)[..., 0], expected, atol=2e-5)


def test_several_are_applied_in_their_order():
    key, image = jax.random.key(5), image_of((8, 8, 1))
    first, second = (jax.random.fold_in(key, position) for position in range(2))
    np.testing.assert_array_equal(
        augmentation.parse(" crop, flip ")(key, image),
        augmentation.flip(second, augmentation.crop(first, image)),
    )


def test_an_unknown_name_is_refused_with_the_list():
    with pytest.raises(UsageError, match="unknown augmentation 'mirror': it is one of flip, crop"):
        augmentation.parse("flip,mirror")
