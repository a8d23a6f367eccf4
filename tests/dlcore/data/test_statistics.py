"""What is measured of a training split, against NumPy in float64."""

import numpy as np
import pytest

from dlcore.data import statistics
from dlcore.data.sources import Arrays, Split

rng = np.random.default_rng(0)
MIXTURE = np.array([[60, 20, 0], [0, 40, 10], [0, 0, 20]])
COLOURS = np.clip(rng.normal(size=(300, 4, 5, 3)) @ MIXTURE + 120, 0, 255).astype(np.uint8)


class Streamed(Arrays):
    streams = True


def split_of(images, kind=Arrays):
    return Split(kind(images, np.zeros(len(images), np.int32)), np.arange(len(images)))


@pytest.mark.parametrize("images", [COLOURS, (COLOURS / 255).astype(np.float32)])
def test_colour_components_are_the_covariances_eigenvectors_times_eigenvalues(images):
    components = statistics.colour_components(split_of(images)).astype(np.float64)
    covariance = np.cov(COLOURS.reshape(-1, 3).T / 255, ddof=0)
    eigenvalues = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    np.testing.assert_allclose(np.linalg.norm(components, axis=0), eigenvalues, rtol=1e-5)
    directions = components / eigenvalues
    np.testing.assert_allclose(covariance @ directions, components, atol=1e-6)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-5)


def test_a_grey_image_has_its_variance_as_the_only_component():
    grey = COLOURS[..., :1]
    components = statistics.colour_components(split_of(grey))
    np.testing.assert_allclose(np.abs(components), [[np.var(grey / 255)]], rtol=1e-5)


def test_a_dataset_that_streams_is_measured_on_examples_spread_over_all(monkeypatch):
    monkeypatch.setattr(statistics, "_STREAMED_EXAMPLES", 100)
    measured = statistics.mean_and_deviation(split_of(COLOURS, Streamed))
    some = COLOURS[::3] / 255
    np.testing.assert_allclose(measured["mean"], some.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(measured["standard_deviation"], some.std((0, 1, 2)), rtol=1e-6)
