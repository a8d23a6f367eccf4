"""The datasets that come with scikit-learn: handwritten digits, and four tables of numbers."""

from collections.abc import Callable

import numpy as np

from dlcore.data import decoding, image, sources
from dlcore.data.dataset import Dataset
from dlcore.data.options import Options

# Of a seven-segment display, and which of them show each digit, 0 to 9.
_SEGMENTS = (
    "top",
    "upper right",
    "lower right",
    "bottom",
    "lower left",
    "upper left",
    "middle",
)
_CODES = """
1111110 0110000 1101101 1111001 0110011
1011011 1011111 1110000 1111111 1111011
"""
SEVEN_SEGMENT_CODE = np.array([list(code) for code in _CODES.split()], np.float32)


def _digit_images(options: Options) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[..., None]
    if options.resize:
        images = np.stack([decoding.resized(digit, (options.resize,) * 2) for digit in images])
    return images, digits.target.astype(np.int32)


def digits(name: str, options: Options) -> image.ImageDataset:
    """1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998)."""
    images, labels = _digit_images(options)
    arrays = sources.Arrays(images, labels)
    return image.build(name, {"train": arrays}, tuple("0123456789"), options)


def digits_segments(name: str, options: Options) -> image.ImageDataset:
    """The digits, labelled by the segments of a seven-segment display that show them."""
    images, labels = _digit_images(options)
    arrays = sources.Arrays(images, SEVEN_SEGMENT_CODE[labels])
    return image.build(name, {"train": arrays}, _SEGMENTS, options, kind="tags")


def table(name: str, options: Options) -> image.ImageDataset:
    """Rows of numbers: iris, wine and breast_cancer with a class, diabetes with a number each."""
    from sklearn import datasets

    if name == "diabetes":
        # As measured: scikit-learn's own scaling would have seen the test split.
        rows, progression = datasets.load_diabetes(return_X_y=True, scaled=False)
        arrays = sources.Arrays(rows.astype(np.float32), progression[:, None].astype(np.float32))
        return image.build(name, {"train": arrays}, ("progression",), options, kind="numbers")
    bunch = getattr(datasets, f"load_{name}")()
    arrays = sources.Arrays(bunch.data.astype(np.float32), bunch.target.astype(np.int32))
    return image.build(name, {"train": arrays}, tuple(map(str, bunch.target_names)), options)


BUNDLED: dict[str, Callable[[str, Options], Dataset]] = {
    "digits": digits,
    "digits_segments": digits_segments,
    "breast_cancer": table,
    "diabetes": table,
    "iris": table,
    "wine": table,
}
