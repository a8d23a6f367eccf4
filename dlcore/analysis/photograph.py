"""The photograph that the studies of images look at."""

import numpy as np

from dlcore.errors import UsageError

# Height of the photograph in pixels; it is wider than that.
_HEIGHT = 427


def photograph(size: int) -> np.ndarray:
    """The middle of scikit-learn's "china.jpg" (a summer palace), gray.

    Gray is 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601). Pixels are averages over squares
    of the original, the largest that leave `size` of them.

    Args:
      size: pixels of its height and width.

    Returns:
      float32 `[size, size]` between 0 and 1.

    Raises:
      UsageError: the photograph is smaller than that.
    """
    gray = _colors(size) @ np.array([0.299, 0.587, 0.114])
    return gray.astype(np.float32)


def color_photograph(size: int) -> np.ndarray:
    """The same, red, green and blue: float32 `[size, size, 3]`."""
    return _colors(size).astype(np.float32)


def _colors(size: int) -> np.ndarray:
    if not 1 <= size <= _HEIGHT:
        raise UsageError(
            f"a photograph of {size} pixels: it must have from 1 to {_HEIGHT} on each side"
        )
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image("china.jpg") / 255
    averaged = _HEIGHT // size
    side = averaged * size
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    middle = pixels[top : top + side, left : left + side]
    return middle.reshape(size, averaged, size, averaged, 3).mean((1, 3))
