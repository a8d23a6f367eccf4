"""The datasets that come with scikit-learn: handwritten digits, and four tables of numbers."""

import numpy as np

from dlcore.data.dataset import Dataset
from dlcore.data.examples import from_arrays
from dlcore.data.features import ClassLabel, Feature, Image, Numbers, Row, Tags
from dlcore.data.options import ExampleOptions
from dlcore.data.registration import register

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


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16).astype(np.float32)[..., None], digits.target


def digits(name: str, options: ExampleOptions) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998)."""
    images, labels = _digits()
    features = {"image": Image(images.shape[1:]), "label": ClassLabel(tuple("0123456789"))}
    return from_arrays(features, {"train": {"image": images, "label": labels}}, options, name)


def digits_segments(name: str, options: ExampleOptions) -> Dataset:
    """The digits, tagged with the segments of a seven-segment display that show them."""
    images, labels = _digits()
    features = {"image": Image(images.shape[1:]), "tags": Tags(_SEGMENTS)}
    arrays = {"image": images, "tags": SEVEN_SEGMENT_CODE[labels]}
    return from_arrays(features, {"train": arrays}, options, name)


def table(name: str, options: ExampleOptions) -> Dataset:
    """Rows of numbers with a class each: iris, wine and breast_cancer."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    features: dict[str, Feature] = {
        "row": Row(tuple(map(str, bunch.feature_names))),
        "label": ClassLabel(tuple(map(str, bunch.target_names))),
    }
    arrays = {"row": bunch.data, "label": bunch.target}
    return from_arrays(features, {"train": arrays}, options, name)


def diabetes(name: str, options: ExampleOptions) -> Dataset:
    """Rows of ten measurements and how far diabetes had progressed a year later."""
    from sklearn.datasets import load_diabetes

    # As measured: scikit-learn's own scaling would have seen the test split.
    bunch = load_diabetes(scaled=False)
    features = {"row": Row(tuple(bunch.feature_names)), "numbers": Numbers(("progression",))}
    arrays = {"row": bunch.data, "numbers": bunch.target[:, None]}
    return from_arrays(features, {"train": arrays}, options, name)


register("digits", digits)
register("digits_segments", digits_segments)
register("diabetes", diabetes)
for _name in ("breast_cancer", "iris", "wine"):
    register(_name, table)
