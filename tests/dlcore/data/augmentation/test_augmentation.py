"""All augmentations alike: their strengths, their chain, and how they are written."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore.data import ExampleOptions, augmentation
from dlcore.data.augmentation import AUGMENTATIONS, geometry, intensity
from dlcore.data.augmentation.moves import Warps
from dlcore.data.features import Boxes, Image, Row, Segmentation, Series
from dlcore.errors import UsageError

COMPONENTS = np.diag([0.3, 0.2, 0.1]).astype(np.float32)
SHAPE = (11, 8, 3)
IMAGE = {"image": Image(SHAPE)}


def image_of(shape, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 1.0, shape).astype(np.float32)


def compose(text, features=None):
    """The changes of an image alone, `(key, image) -> image`, or of a series in its place."""
    measured = {"image": {"color_components": COMPONENTS}}
    change = augmentation.compose(augmentation.parse(text), features or IMAGE, measured)
    return lambda key, image: change(key, {"image": image})["image"]


@functools.cache
def changed(strength):
    """A function `(keys, images) -> [kinds, n, ...]` that applies every augmentation by itself."""
    texts = [name if strength is None else f"{name}:{strength}" for name in AUGMENTATIONS]
    series = {"image": Series(SHAPE)}
    changes = [
        compose(text, None if Image in kind.changes else series)
        for text, kind in zip(texts, AUGMENTATIONS.values(), strict=True)
    ]
    return jax.jit(lambda *batch: jnp.stack([jax.vmap(change)(*batch) for change in changes]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(-2, 2), st.floats(0.1, 10))
def test_no_strength_is_no_change(seed, offset, scale):
    images = offset + scale * image_of((16, *SHAPE), seed)
    results = changed(0)(jax.random.split(jax.random.key(seed), 16), images)
    expected = np.broadcast_to(images, results.shape)
    np.testing.assert_allclose(results, expected, rtol=1e-5, atol=1e-5 * (scale + abs(offset)))


def test_the_shape_stays_and_each_example_is_changed_by_its_own_key():
    image = jnp.broadcast_to(image_of(SHAPE), (16, *SHAPE))
    keys = jax.random.split(jax.random.key(0), 16)
    results = np.asarray(changed(None)(keys, image))
    assert results.shape == (len(AUGMENTATIONS), 16, *SHAPE)
    assert results.dtype == np.float32
    assert np.isfinite(results).all()
    for name, images in zip(AUGMENTATIONS, results, strict=True):
        assert len({image.tobytes() for image in images}) > 1, name
    # The same key does the same, whatever stands beside it.
    swapped = changed(None)(keys[::-1], image)
    np.testing.assert_array_equal(swapped[:, ::-1], results)


def test_several_are_applied_in_their_order_each_with_its_own_key():
    key, image = jax.random.key(5), image_of((8, 8, 1))
    first, second = (jax.random.fold_in(key, position) for position in range(2))
    expected = intensity.noise(second, 0.3, geometry.crop(first, 2, (8, 8)).pixels(image))
    np.testing.assert_array_equal(compose(" crop:2, noise:0.3 ")(key, image), expected)


def test_warps_in_a_row_read_the_image_once():
    key, image = jax.random.key(6), image_of((9, 14, 1))
    strengths = {"rotate": 5 / 9, "stretch": 5 / 9, "shift": 1}
    warps = [
        AUGMENTATIONS[name].change(jax.random.fold_in(key, position), strength, (9, 14))
        for position, (name, strength) in enumerate(strengths.items())
    ]
    text = ",".join(f"{name}:{strength}" for name, strength in strengths.items())
    places = np.indices((9, 14)).astype(np.float32)
    # What is seen after the shift is looked up in the stretched image, and so on.
    for warp in reversed(warps):
        places = np.asarray(warp.source(places))
    expected = scipy.ndimage.map_coordinates(
        image[..., 0].astype(np.float64), places, order=1, mode="grid-constant"
    )
    result = compose(text)(key, image)
    np.testing.assert_allclose(result[..., 0], expected, atol=2e-5)


def test_a_chain_of_warps_is_one_after_the_other_where_interpolation_hardly_blurs():
    rows, columns = np.indices((64, 64))
    blob = np.exp(-((rows - 25) ** 2 + (columns - 36) ** 2) / 100)[..., None].astype(np.float32)
    key = jax.random.key(7)
    keys = [jax.random.fold_in(key, position) for position in range(2)]
    chained = compose("rotate:90,stretch:0.3")(key, blob)
    turned = Warps((64, 64), [geometry.rotate(keys[0], 90, (64, 64))]).pixels(blob)
    apart = Warps((64, 64), [geometry.stretch(keys[1], 0.3, (64, 64))]).pixels(turned)
    assert float(jnp.abs(chained - blob).max()) > 0.2
    np.testing.assert_allclose(chained, apart, atol=0.01)


def test_names_and_strengths_are_read():
    assert augmentation.parse("") == ()
    assert augmentation.parse("rotate:2.5, shift:2 ,flip,crop:3") == (
        ("rotate", 2.5),
        ("shift", 2),
        ("flip", 0.5),
        ("crop", 3),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flip,mirror", "unknown augmentation 'mirror': it is one of flip, crop, flip_vertical, "),
        ("rotate:", "augmentation 'rotate:': its strength must be a number$"),
        ("rotate:far", "augmentation 'rotate:far': its strength must be a number$"),
        ("rotate:181", "'rotate:181': its strength must be at least 0 and at most 180$"),
        ("flip:1.5", "'flip:1.5': its strength must be at least 0 and at most 1$"),
        ("noise:-0.1", "'noise:-0.1': its strength must be at least 0 and at most 100$"),
        ("pca_color:101", "'pca_color:101': its strength must be at least 0 and at most 100$"),
        ("elastic:1e30", "'elastic:1e30': its strength must be at least 0 and at most 1000$"),
        ("noise:inf", "'noise:inf'"),
        ("shift:nan", "'shift:nan'"),
        ("crop:1.5", "'crop:1.5': its strength must be a whole number$"),
        ("shift:1.5", "'shift:1.5': its strength must be a whole number$"),
        ("crop:-1", "'crop:-1': its strength must be at least 0$"),
    ],
)
def test_what_is_no_augmentation_is_refused_in_one_line(text, message):
    with pytest.raises(UsageError, match=message) as refused:
        ExampleOptions(augment=text)
    assert "\n" not in str(refused.value)


def test_the_help_names_every_augmentation_with_its_default():
    help_text = ExampleOptions.__doc__.partition("augment:")[2].partition("crop_size:")[0]
    documented = dict(re.findall(r"(\w+):([\d.]+\d|\d)", help_text))
    assert {name: float(strength) for name, strength in documented.items()} == {
        name: kind.strength for name, kind in AUGMENTATIONS.items()
    }


def test_a_key_that_an_example_lacks_is_left_out():
    features = {**IMAGE, "classes": Segmentation((), SHAPE[:2])}
    change = augmentation.compose(augmentation.parse("flip:1"), features)
    image = image_of(SHAPE)
    result = change(jax.random.key(0), {"image": image})
    np.testing.assert_array_equal(result["image"], image[:, ::-1])


@pytest.mark.parametrize(
    ("text", "features", "message"),
    [
        (
            "flip",
            {"row": Row(("a", "b"))},
            "augment has 'flip', which is for images: there are",
        ),
        ("noise", {"steps": Series((5, 2))}, "augment has 'noise', which is for images"),
        ("time_mask", IMAGE, "augment has 'time_mask', which is for series: there are image"),
        ("time_mask", {"classes": Segmentation((), (5, 2))}, "'time_mask', which classes cannot"),
        ("elastic", {**IMAGE, "boxes": Boxes(("a",), 3)}, "'elastic', which boxes cannot follow"),
        ("time_shift", {**IMAGE, "boxes": Boxes(("a",), 3)}, "'time_shift', which boxes cannot"),
    ],
)
def test_what_cannot_be_changed_or_cannot_follow_is_named(text, features, message):
    with pytest.raises(UsageError, match=message):
        augmentation.compose(augmentation.parse(text), features)
