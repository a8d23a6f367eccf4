"""What is done to values: the distribution of what is added, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from dlcore.data.augmentation import intensity

KEYS = jax.random.split(jax.random.key(0), 4000)
IMAGE = np.random.default_rng(0).uniform(0, 1, (4, 5, 3)).astype(np.float32)


def changed(change, *arguments):
    """The image after the change by each key, float64 `[keys, *shape]`."""
    images = jax.vmap(lambda key: change(key, *arguments))(KEYS)
    return np.asarray(images, np.float64)


def assert_distributed(values, distribution):
    assert scipy.stats.kstest(values, distribution.cdf).pvalue > 1e-3


def test_brightness_adds_one_number_to_all():
    added = changed(intensity.brightness, 0.2, IMAGE) - IMAGE
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1, :1], added.shape), atol=1e-6)
    assert_distributed(added[:, 0, 0, 0], scipy.stats.uniform(-0.2, 0.4))


def test_contrast_scales_about_the_mean_of_each_channel():
    images = changed(intensity.contrast, 0.3, IMAGE)
    mean = IMAGE.mean((0, 1), dtype=np.float64)
    np.testing.assert_allclose(images.mean((1, 2)), np.tile(mean, (4000, 1)), atol=1e-5)
    factor = (images - mean) / (IMAGE - mean)
    np.testing.assert_allclose(
        factor, np.broadcast_to(factor[:, :1, :1, :1], factor.shape), atol=1e-3
    )
    assert_distributed(factor[:, 0, 0, 0] - 1, scipy.stats.uniform(-0.3, 0.6))


def test_noise_is_gaussian_and_of_each_pixel_its_own():
    added = (changed(intensity.noise, 0.1, IMAGE) - IMAGE)[:, :2, :2, :2].reshape(4000, 8)
    assert_distributed(added.ravel(), scipy.stats.norm(0, 0.1))
    assert np.abs(np.corrcoef(added.T) - np.eye(8)).max() < 0.08


def test_color_jitter_has_the_covariance_of_the_paper():
    # Krizhevsky et al. (2012): p_i alpha_i lambda_i summed over i, Cov = P diag(sigma lambda)^2 P'.
    colors = np.random.default_rng(1).normal(size=(500, 3)) @ [[3, 1, 0], [0, 2, 1], [0, 0, 1]]
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(colors.T))
    components = jnp.asarray(eigenvectors * eigenvalues, jnp.float32)
    added = changed(intensity.pca_color, 0.1, IMAGE, components) - IMAGE
    # One offset for all pixels.
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-6)
    offsets = added[:, 0, 0] @ eigenvectors / eigenvalues
    # Along the axes it is independent, each of the same deviation in units of its eigenvalue.
    for alpha in offsets.T:
        assert_distributed(alpha, scipy.stats.norm(0, 0.1))
    covariance = eigenvectors @ np.diag((0.1 * eigenvalues) ** 2) @ eigenvectors.T
    np.testing.assert_allclose(np.cov(added[:, 0, 0].T), covariance, atol=0.1 * covariance.max())
