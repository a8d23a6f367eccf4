"""What is measured of a training split before any training: for normalization and color jitter."""

from collections.abc import Iterator, Mapping

import numpy as np

from dlcore.data import features as kinds
from dlcore.data.features import Feature
from dlcore.data.sources import Split

# The statistics of a dataset that streams come from this many examples, evenly spaced.
_STREAMED_EXAMPLES = 1024
_CHUNK = 256


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
    total, squares, count, scale = np.zeros(()), np.zeros(()), 0, 1.0
    origin = None
    for stored in _chunks(split, key, feature):
        scale = unit(feature, stored.dtype)
        values = stored.astype(np.float64)
        if origin is None:
            # The difference of squares keeps its digits where they are counted from near the mean.
            axes = _axes_measured_alike(feature, values.ndim - 1)
            origin = values.mean(0).mean(axes, keepdims=True)
        values -= origin
        # Over the examples first: NumPy is slow to sum over all but a short last axis.
        total = total + values.sum(0)
        squares = squares + np.einsum("n...,n...->...", values, values)
        count += len(values)
    axes = _axes_measured_alike(feature, total.ndim)
    mean = np.atleast_1d(total.mean(axes)) / count
    variance = np.atleast_1d(squares.mean(axes)) / count - mean**2
    deviation = np.sqrt(np.maximum(variance, 0))
    mean = mean + np.atleast_1d(np.squeeze(np.zeros(()) if origin is None else origin, axes))
    # What never varies, but for the rounding of float32, is only centered.
    rounding = np.finfo(np.float32).eps * np.abs(mean)
    deviation = np.where(deviation > rounding, deviation, scale)
    return {
        "mean": (mean / scale).astype(np.float32),
        "standard_deviation": (deviation / scale).astype(np.float32),
    }


def _axes_measured_alike(feature: Feature, axes: int) -> tuple[int, ...]:
    # A row has a meaning for each of its numbers; sound and a series of numbers have one for all.
    if isinstance(feature, kinds.Audio | kinds.Series) and len(feature.shape) == 1:
        return tuple(range(axes))
    return tuple(range(axes - 1))


def color_components(split: Split, key: str, feature: Feature) -> np.ndarray:
    """Principal components of the colors of an image's pixels, the largest first.

    Krizhevsky et al. (2012), section 4.1: float32 `[channels, channels]`, in column i the
    eigenvector p_i of the colors' covariance times its eigenvalue lambda_i.
    """
    total, products, count = np.zeros(()), np.zeros(()), 0
    for stored in _chunks(split, key, feature):
        colors = stored.reshape(-1, stored.shape[-1]).astype(np.float64)
        colors /= unit(feature, stored.dtype)
        total, products = total + colors.sum(0), products + colors.T @ colors
        count += len(colors)
    mean = total / count
    eigenvalues, eigenvectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    return (np.maximum(eigenvalues, 0) * eigenvectors)[:, ::-1].astype(np.float32)


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


def _chunks(split: Split, key: str, feature: Feature) -> Iterator[np.ndarray]:
    """What is measured, as it is stored, some at a time: `[n, *shape]`, or the steps of all."""
    count = min(len(split), _STREAMED_EXAMPLES) if split.source.streams else len(split)
    positions = np.linspace(0, len(split), count, endpoint=False).astype(np.int64)
    alone = Split(split.source, split.indices, {key: split.names[key]})
    for start in range(0, count, _CHUNK):
        examples = alone.fetch(positions[start : start + _CHUNK])
        values = examples[key]
        if "_length" in feature.parts:
            values = values[np.arange(values.shape[1]) < examples[f"{key}_length"][:, None]]
        yield values
