"""What is measured of a training split before any training: for normalization and colour jitter."""

from collections.abc import Iterator

import numpy as np

from dlcore.data.sources import Split

# The statistics of a dataset that streams come from this many examples, evenly spaced.
_STREAMED_EXAMPLES = 1024
_CHUNK = 256


def mean_and_deviation(split: Split) -> dict[str, np.ndarray]:
    """Mean and standard deviation of the inputs, in 0..1 for uint8 ones, float32 `[channels]`."""
    total = squares = np.zeros(split.source.shape)
    for image in _chunks(split):
        # Over the images first: NumPy is slow to sum over all but a short last axis.
        total = total + image.sum(0)
        squares = squares + np.einsum("n...,n...->...", image, image)
    count, pixels = _count(split), tuple(range(total.ndim - 1))
    mean = total.mean(pixels) / count
    deviation = np.sqrt(np.maximum(squares.mean(pixels) / count - mean**2, 0))
    scale = _scale(split)
    # An input that never varies, but for rounding, is only centred.
    deviation = np.where(deviation > 1e-6 * np.abs(mean), deviation, scale)
    return {
        "mean": (mean / scale).astype(np.float32),
        "standard_deviation": (deviation / scale).astype(np.float32),
    }


def colour_components(split: Split) -> np.ndarray:
    """Principal components of the pixels' colours (in 0..1 for uint8 ones), the largest first.

    Krizhevsky et al. (2012), section 4.1: float32 `[channels, channels]`, in column i the
    eigenvector p_i of the colours' covariance times its eigenvalue lambda_i.
    """
    channels = split.source.shape[-1]
    total, products, count = np.zeros(channels), np.zeros((channels, channels)), 0
    for image in _chunks(split):
        colours = image.reshape(-1, channels) / _scale(split)
        total, products = total + colours.sum(0), products + colours.T @ colours
        count += len(colours)
    mean = total / count
    eigenvalues, eigenvectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    return (np.maximum(eigenvalues, 0) * eigenvectors)[:, ::-1].astype(np.float32)


def _count(split: Split) -> int:
    return min(len(split), _STREAMED_EXAMPLES) if split.source.streams else len(split)


def _chunks(split: Split) -> Iterator[np.ndarray]:
    """The inputs that are measured, float64 `[n, *shape]` at a time."""
    positions = np.linspace(0, len(split), _count(split), endpoint=False).astype(np.int64)
    for start in range(0, len(positions), _CHUNK):
        yield split.fetch(positions[start : start + _CHUNK])["image"].astype(np.float64)


def _scale(split: Split) -> int:
    return 255 if split.source.dtype == np.uint8 else 1
