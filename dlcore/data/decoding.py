"""Encoded image files to arrays, with Pillow."""

import functools
import io
import pathlib
from typing import Any

import numpy as np

from dlcore.errors import UsageError

# Of all that Pillow reads, what it decodes by itself: others start programs, as PostScript does.
_FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "MPO", "PCX"),
    *("PNG", "PPM", "PSD", "QOI", "SGI", "TGA", "TIFF", "WEBP", "XBM", "XPM"),
)
# What shows through where an image is transparent.
_BACKGROUND = "white"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those formats that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
    """Of the files that `decode` reads, in lower case."""
    from PIL import Image

    allowed = _formats()
    return frozenset(
        suffix for suffix, name in Image.registered_extensions().items() if name in allowed
    )


def opened(encoded: bytes | pathlib.Path) -> Any:
    """An image file or its content as Pillow opens it, its pixels not yet decoded.

    Raises:
      Exception: of a dozen kinds; it is no image of a format that is read, or damaged.
    """
    from PIL import Image

    source = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    return Image.open(source, formats=_formats())


def decode(
    encoded: bytes | pathlib.Path,
    channels: int,
    size: tuple[int, int] | None = None,
    cut_square: bool = False,
) -> np.ndarray:
    """The pixels of an image file or of its content, uint8 `[height, width, channels]`.

    Args:
      encoded: of a format that Pillow decodes by itself; a file is turned upright as its EXIF
        orientation says. Of several images in it the first one is read.
      channels: 1 (gray), 3 (RGB) or 4 (RGBA); the image is converted. Where the result has no
        transparency, a transparent image is laid on white.
      size: height and width that it is resized to, whatever its proportions; None leaves it.
      cut_square: whether only the central square is resized.

    Raises:
      UsageError: a file is no image of 8 bits a channel, or is damaged.
    """
    from PIL import ImageOps

    try:
        with opened(encoded) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError("its pixels have more than 8 bits, convert it first")
            upright = image if isinstance(encoded, bytes) else ImageOps.exif_transpose(image)
            if channels < 4 and upright.has_transparency_data:
                upright = _opaque(upright)
            pixels = np.asarray(upright.convert(_MODES[channels]))
    except Exception as error:  # Pillow raises a dozen kinds for damaged files.
        where = "" if isinstance(encoded, bytes) else f" {encoded}"
        raise UsageError(f"cannot read image{where}: {error}") from error
    pixels = pixels.reshape(*pixels.shape[:2], channels)
    return resized(pixels, size, cut_square) if size else pixels


def decode_classes(encoded: bytes) -> np.ndarray:
    """The numbers that a PNG of one channel holds, `[height, width]`: a palette is left unread."""
    try:
        with opened(encoded) as image:
            return np.asarray(image)
    except Exception as error:  # Pillow raises a dozen kinds for damaged files.
        raise UsageError(f"cannot read image: {error}") from error


def _opaque(image: Any) -> Any:
    from PIL import Image

    background = Image.new("RGBA", image.size, _BACKGROUND)
    return Image.alpha_composite(background, image.convert("RGBA"))


def resized(image: np.ndarray, size: tuple[int, int], cut_square: bool = False) -> np.ndarray:
    """An image `[height, width, channels]`, uint8 or float32, resized bilinearly to `size`.

    A reduction averages over the pixels that it merges (Pillow's bilinear filter). With
    `cut_square` the central square is all that there is of the image.
    """
    from PIL import Image

    if cut_square:
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        image = image[top : top + side, left : left + side]
    channels = np.moveaxis(image, -1, 0)
    return np.stack(
        [_resized(channel, size, Image.Resampling.BILINEAR) for channel in channels], axis=-1
    )


def resized_classes(classes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A class for every pixel `[height, width]`, resized: each takes its nearest neighbor's."""
    from PIL import Image

    return _resized(classes, size, Image.Resampling.NEAREST)


def _resized(plane: np.ndarray, size: tuple[int, int], method: Any) -> np.ndarray:
    from PIL import Image

    height, width = size
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), method))
