"""Image files to arrays."""

import jax
import numpy as np
import pytest
from PIL import Image

from dlcore.data import decoding
from dlcore.errors import UsageError


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


@pytest.mark.parametrize(("channels", "shape"), [(1, (4, 6)), (3, (4, 6, 3)), (4, (4, 6, 4))])
def test_a_png_gives_back_its_pixels_from_a_file_and_from_bytes(tmp_path, channels, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = save(tmp_path / "image.png", image)
    for encoded in (path, path.read_bytes()):
        decoded = decoding.decode(encoded, channels)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, image.reshape(4, 6, channels))


def test_gray_becomes_color_where_color_is_asked_for(tmp_path):
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    decoded = decoding.decode(save(tmp_path / "image.png", image), 3)
    np.testing.assert_array_equal(decoded, np.repeat(image[..., None], 3, axis=-1))


def test_a_photograph_is_turned_upright(tmp_path):
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # The orientation tag: turn it clockwise to see it upright.
    decoded = decoding.decode(save(tmp_path / "image.png", image, exif=exif), 1)
    np.testing.assert_array_equal(decoded[..., 0], np.rot90(image, -1))


@pytest.mark.parametrize("size", [(5, 7), (16, 12), (12, 3)])
def test_resizing_is_the_antialiased_bilinear_one_of_jax(size):
    image = np.random.default_rng(1).uniform(size=(10, 8, 3)).astype(np.float32)
    expected = jax.image.resize(image, (*size, 3), "bilinear", antialias=True)
    np.testing.assert_allclose(decoding.resized(image, size), expected, atol=1e-6)


def test_resizing_bytes_rounds_what_resizing_floats_gives():
    image = np.random.default_rng(2).integers(0, 256, (10, 8, 1), dtype=np.uint8)
    floats = decoding.resized(image.astype(np.float32), (5, 6))
    # Pillow rounds after each of the two directions.
    np.testing.assert_allclose(decoding.resized(image, (5, 6)), floats, atol=1.01)


@pytest.mark.parametrize("shape", [(10, 7), (4, 9), (6, 6)])
def test_of_a_square_that_is_cut_out_first_nothing_is_stretched(shape):
    image = np.moveaxis(np.indices(shape), 0, -1).astype(np.float32)
    cut = decoding.resized(image, (4, 4), cut_square=True)
    # Rows and columns of equal spacing, whose middle is the image's.
    steps = np.array([-1.5, -0.5, 0.5, 1.5]) * min(shape) / 4
    middle = (np.array(shape) - 1) / 2
    assert np.abs(cut.mean((0, 1)) - middle).max() < 0.51
    inner = cut[1:3, 1:3] - cut.mean((0, 1))
    expected = np.stack(np.meshgrid(steps[1:3], steps[1:3], indexing="ij"), -1)
    np.testing.assert_allclose(inner, expected, atol=0.1)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_a_file_that_is_no_image_is_named(tmp_path, damage):
    path = save(tmp_path / "image.png", np.zeros((50, 50), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"hello", "truncated": whole[: len(whole) // 2]}[damage]
    )
    with pytest.raises(UsageError, match=f"cannot read image {path}"):
        decoding.decode(path, 1)


def test_sixteen_bit_images_are_refused_rather_than_clipped(tmp_path):
    path = save(tmp_path / "image.png", np.full((4, 4), 60000, np.uint16))
    with pytest.raises(UsageError, match="more than 8 bits"):
        decoding.decode(path, 1)


def transparent(mode):
    """A black square, drawn in the transparency over black: where it is clear, half and opaque."""
    alpha = np.full((2, 3), [0, 128, 255], np.uint8)
    if mode == "P":
        image = Image.fromarray(np.full((2, 3), [0, 1, 2], np.uint8), "P")
        image.putpalette([0] * 9)
        image.info["transparency"] = bytes([0, 128, 255])
        return image
    gray = Image.fromarray(np.zeros((2, 3), np.uint8))
    planes = [gray] * (len(mode) - 1)
    return Image.merge(mode, [*planes, Image.fromarray(alpha)])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode, channels):
    image = transparent(mode)
    image.save(tmp_path / "image.png", transparency=image.info.get("transparency"))
    # alpha x 0 + (1 - alpha) x 255, by hand.
    expected = np.broadcast_to(np.array([255, 127, 0])[:, None], (2, 3, channels))
    path = tmp_path / "image.png"
    for encoded in (path, path.read_bytes()):
        np.testing.assert_array_equal(decoding.decode(encoded, channels), expected)


def test_an_opaque_image_keeps_its_pixels_whatever_its_mode(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    decoded = decoding.decode(save(tmp_path / "image.png", pixels), 3)
    np.testing.assert_array_equal(decoded, pixels[..., :3])


def test_transparency_that_is_asked_for_is_kept(tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    decoded = decoding.decode(save(tmp_path / "image.png", pixels), 4)
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize(
    "suffix", ["bmp", "gif", "jpg", "jfif", "png", "ppm", "tif", "tga", "webp"]
)
def test_every_raster_that_pillow_decodes_by_itself_is_read(tmp_path, suffix):
    path = save(tmp_path / f"image.{suffix}", np.full((4, 6), 100, np.uint8))
    assert path.suffix in decoding.suffixes()
    assert np.abs(decoding.decode(path, 1).astype(int) - 100).max() <= 1


@pytest.mark.parametrize("suffix", [".eps", ".ps", ".wmf", ".emf", ".pdf", ".h5", ".grib", ".mpg"])
def test_formats_that_start_other_programs_are_no_images(suffix):
    assert suffix not in decoding.suffixes()


@pytest.mark.parametrize("decode", [lambda path: decoding.decode(path, 1), decoding.decode_classes])
def test_postscript_under_another_name_reaches_no_interpreter(tmp_path, monkeypatch, decode):
    from PIL import EpsImagePlugin

    path = tmp_path / "image.png"
    Image.new("L", (4, 4)).save(path, "EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("it was called"))
    with pytest.raises(UsageError, match="cannot read image"):
        decode(path if decode is not decoding.decode_classes else path.read_bytes())
