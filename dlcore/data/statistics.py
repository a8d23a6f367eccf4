"""What is measured of a training split before any training: for normalization and color jitter."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from dlcore.data import features as kinds
from dlcore.data.features import Feature
from dlcore.data.sources import Split

# The statistics of a dataset that streams come from this many examples, evenly spaced.
_STREAMED_EXAMPLES = 1024
# That are in float64 at once: few enough for a processor's cache.
_NUMBERS = 2**18


def unit(feature: Feature, dtype: np.dtype) -> float:
    """What stands for 1 in the stored arrays of an input."""
    match feature:
        case kinds.Image() | kinds.Images() if dtype == np.uint8:
            return 255
        case kinds.Audio() if dtype == np.int16:
            return 32768
        case kinds.Volume():
            return feature.scale
    return 1


def mean_and_deviation(split: Split, key: str, feature: Feature) -> dict[str, np.ndarray]:
    """Mean and standard deviation of an input, in the units of `Dataset.transform`.

    float32 `[channels]`; of what has no channels `[1]`. Padding does not count.
    """
    stored = _stored(split, key, feature)
    first = next(stored)
    scale = unit(feature, first.dtype)
    mean, squares = _moments(itertools.chain([first], stored), feature, _squares)
    deviation = np.sqrt(squares)
    # What never varies, but for the rounding of float32, is only centered.
    rounding = np.finfo(np.float32).eps * np.abs(mean)
    deviation = np.where(deviation > rounding, deviation, scale)
    return {
        "mean": (mean / scale).astype(np.float32),
        "standard_deviation": (deviation / scale).astype(np.float32),
    }


def color_components(split: Split, key: str, feature: Feature) -> np.ndarray:
    """Principal components of the colors of an image's pixels, the largest first.

    Krizhevsky et al. (2012), section 4.1: float32 `[channels, channels]`, in column i the
    eigenvector p_i of the colors' covariance times its eigenvalue lambda_i.
    """
    stored = _stored(split, key, feature)
    first = next(stored)
    _, covariance = _moments(itertools.chain([first], stored), feature, _products)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance / unit(feature, first.dtype) ** 2)
    return (np.maximum(eigenvalues, 0) * eigenvectors)[:, ::-1].astype(np.float32)


def _squares(channels: np.ndarray) -> np.ndarray:
    return np.einsum("cn,cn->c", channels, channels)


def _products(channels: np.ndarray) -> np.ndarray:
    return channels @ channels.T


def _moments(
    arrays: Iterable[np.ndarray], feature: Feature, products: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each channel, and the mean of what `products` sums of the deviations from it.

    However large the arrays are, a small piece of them is in float64 at a time. Each is centered by
    itself, so that no digits are lost where the mean is large, and then joins the ones before
    (Chan, Golub and LeVeque 1983).
    """
    count, mean, total = 0, np.zeros(1), np.zeros(1)
    for array in arrays:
        flat = array.reshape(-1, _channels(array, feature))
        size = max(_NUMBERS // flat.shape[1], 1)
        for start in range(0, len(flat), size):
            # NumPy is slow to sum over all but a short last axis.
            channels = np.array(flat[start : start + size].T, np.float64, order="C")
            own, before, added = channels.mean(1), count, channels.shape[1]
            channels -= own[:, None]
            away = own - mean
            count += added
            total = total + products(channels) + products(away[:, None]) * (before * added / count)
            mean = mean + away * (added / count)
    return mean, total / max(count, 1)


def _channels(array: np.ndarray, feature: Feature) -> int:
    # A row has a meaning for each of its numbers; sound and a series of numbers have one for all.
    if isinstance(feature, kinds.Audio | kinds.Series) and len(feature.shape) == 1:
        return 1
    return array.shape[-1]


def measure(
    split: Split, features: Mapping[str, Feature], with_colors: bool
) -> dict[str, dict[str, np.ndarray]]:
    """See `Dataset.statistics`; the components of colors only where they are asked for."""
    measured = {
        key: mean_and_deviation(split, key, feature)
        for key, feature in features.items()
        if isinstance(feature, (*kinds.INPUTS, kinds.Images))
    }
    for key, feature in features.items():
        if with_colors and isinstance(feature, kinds.Image):
            measured[key]["color_components"] = color_components(split, key, feature)
    return measured


def _stored(split: Split, key: str, feature: Feature) -> Iterator[np.ndarray]:
    """What is measured, as it is stored, some at a time: `[n, *shape]`, or the steps of all."""
    count = min(len(split), _STREAMED_EXAMPLES) if split.source.streams else len(split)
    positions = np.linspace(0, len(split), count, endpoint=False).astype(np.int64)
    for examples in split.only(key).chunks(positions):
        values = examples[key]
        if "_length" in feature.parts:
            values = values[np.arange(values.shape[1]) < examples[f"{key}_length"][:, None]]
        yield values
