"""The judge's numbers against closed forms, SciPy and the laws that they keep."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dlcore.errors import UsageError
from dlcore.evaluators.judged_samples import (
    JudgedSamples,
    class_coverage,
    fitted_gaussian_samples,
    frechet_distance,
    judge_of_classifier,
    judge_samples,
)
from tests import small


def vectors_of(mean, covariance, count=50, seed=0):
    """Vectors whose mean and unbiased covariance are exactly these."""
    rng = np.random.default_rng(seed)
    draws = rng.normal(size=(count, len(mean)))
    draws -= draws.mean(0)
    whitened = draws @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(draws.T)))).T
    return mean + whitened @ np.linalg.cholesky(covariance).T


def covariance(size, seed):
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


def test_the_distance_of_axis_aligned_gaussians_is_that_of_means_and_deviations():
    first_mean, second_mean = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    first_deviation, second_deviation = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.5, 3.0])
    distance = frechet_distance(
        vectors_of(first_mean, np.diag(first_deviation**2), seed=1),
        vectors_of(second_mean, np.diag(second_deviation**2), count=70, seed=2),
    )
    difference = (first_mean - second_mean, first_deviation - second_deviation)
    assert distance == pytest.approx(np.square(difference).sum(), rel=1e-9)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_distance_of_any_gaussians_agrees_with_scipys_matrix_square_root(size):
    means = np.random.default_rng(3).normal(size=(2, size))
    first, second = covariance(size, 4), covariance(size, 5)
    root = scipy.linalg.sqrtm(first @ second)
    expected = np.square(means[0] - means[1]).sum() + np.trace(first + second - 2 * root.real)
    distance = frechet_distance(
        vectors_of(means[0], first, seed=6), vectors_of(means[1], second, seed=7)
    )
    assert distance == pytest.approx(expected, rel=1e-9)


features = arrays(np.float64, (12, 4), elements=st.floats(-10, 10))


@settings(deadline=None)
@given(features, features)
def test_the_distance_is_a_symmetric_one_that_is_zero_only_from_a_set_to_itself(first, second):
    distance = frechet_distance(first, second)
    assert distance >= 0
    assert distance == pytest.approx(frechet_distance(second, first), abs=1e-4)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-4)
    # But for rounding.
    assert distance >= (1 - 1e-12) * np.square(first.mean(0) - second.mean(0)).sum()


@settings(deadline=None)
@given(features, features, arrays(np.float64, 4, elements=st.floats(-10, 10)))
def test_a_common_rotation_or_shift_changes_nothing_and_one_shift_adds_its_square(
    first, second, shift
):
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    distance = frechet_distance(first, second)
    moved = frechet_distance(first @ rotation + shift, second @ rotation + shift)
    assert moved == pytest.approx(distance, abs=1e-4)
    own_shift = frechet_distance(first, first + shift)
    assert own_shift == pytest.approx(shift @ shift, rel=1e-6, abs=1e-4)


def test_features_fewer_than_their_dimensions_have_a_distance():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(5, 20)).astype(np.float32)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(first, first + 3) == pytest.approx(20 * 9, rel=1e-5)


classes = arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 4))


@given(classes, classes, st.permutations(range(5)))
def test_coverage_keeps_its_laws(predictions, reference, renaming):
    spread = class_coverage(predictions, reference, 5)
    assert 0 <= spread["class_total_variation"] <= 1
    assert 0 <= spread["class_coverage"] <= 1
    assert spread["classes_covered"] <= len(set(predictions))
    swapped = class_coverage(reference, predictions, 5)
    assert swapped["class_total_variation"] == pytest.approx(spread["class_total_variation"])
    renamed = class_coverage(np.take(renaming, predictions), np.take(renaming, reference), 5)
    assert renamed == pytest.approx(spread)
    # Only shares matter: every sample twice is the same spread.
    assert class_coverage(np.repeat(predictions, 2), reference, 5) == pytest.approx(spread)


@given(classes)
def test_the_real_images_cover_themselves(reference):
    assert class_coverage(reference, reference, 5) == {
        "classes_covered": len(set(reference)),
        "class_coverage": 1.0,
        "class_total_variation": 0.0,
    }


def test_a_collapsed_generator_covers_one_class():
    reference = np.repeat(np.arange(10), 7)
    spread = class_coverage(np.full(30, 3), reference, 10)
    assert spread == pytest.approx(
        {"classes_covered": 1, "class_coverage": 0.1, "class_total_variation": 0.9}
    )


def test_a_class_counts_from_the_stated_part_of_its_share_on():
    reference = np.repeat([0, 1], 50)
    for ones, covered in ((12, 1), (13, 2)):
        predictions = np.repeat([0, 1], [100 - ones, ones])
        assert class_coverage(predictions, reference, 2)["classes_covered"] == covered


def test_gaussian_samples_have_the_mean_and_the_covariance_of_the_images():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) + 1
    images[0], images[1] = 100, -100  # A range that clips nothing.
    samples = fitted_gaussian_samples(images.reshape(400, 3, 2, 1), 40_000, seed=1)
    assert samples.shape == (40_000, 3, 2, 1)
    assert samples.dtype == np.float32
    flat = samples.reshape(-1, 6)
    np.testing.assert_allclose(flat.mean(0), images.mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(flat.T), np.cov(images.T), rtol=0.04)


def test_gaussian_samples_stay_in_range_and_in_the_span_of_few_images():
    images = np.random.default_rng(0).uniform(-1, 1, (4, 5, 5, 1))
    images[:, 0, 0] = 0.25  # A pixel that never varies.
    images[0, 1, 1], images[1, 1, 1] = -1, 1
    samples = fitted_gaussian_samples(images, 200, seed=0)
    assert samples.min() >= -1
    assert samples.max() <= 1
    np.testing.assert_allclose(samples[:, 0, 0], 0.25, atol=1e-6)
    inside = samples[(np.abs(samples) < 1).all((1, 2, 3))].reshape(-1, 25)
    assert len(inside) > 10
    assert np.linalg.matrix_rank(inside - inside[0], tol=1e-4) == 3
    np.testing.assert_array_equal(samples, fitted_gaussian_samples(images, 200, seed=0))


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        return nn.Dense(3)(x)


@pytest.fixture(scope="module")
def classifier():
    model = Classifier()
    return model, model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(-1, 1, (250, 2, 2, 1)).astype(np.float32)


def test_a_classifiers_features_are_what_its_last_dense_layer_sees(classifier, images):
    model, variables = classifier
    judge = judge_of_classifier(model, variables, prepare=lambda x: 2 * x + 1, batch_size=100)
    seen, probabilities = judge(images)
    first, last = variables["params"]["Dense_0"], variables["params"]["Dense_1"]
    inputs = 2 * images.reshape(250, 4) + 1
    expected = np.maximum(inputs @ first["kernel"] + first["bias"], 0)
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-6)
    scores = np.exp(expected @ last["kernel"] + last["bias"])
    np.testing.assert_allclose(probabilities, scores / scores.sum(1, keepdims=True), rtol=1e-4)


def test_the_judge_ranks_real_images_over_the_gaussian_over_noise(classifier, images):
    judge = judge_of_classifier(*classifier, prepare=lambda x: x)
    # Two clusters, as no Gaussian has them.
    real = np.sign(images[:, :1, :1]) * (0.8 + 0.1 * images)
    other_real = np.sign(images[:, 1:, 1:]) * (0.8 + 0.1 * images)
    verdict = judge_samples(judge, real, other_real)
    assert verdict["frechet_ratio"] < 0.2
    assert verdict["frechet_ratio"] == pytest.approx(
        verdict["frechet_distance"] / verdict["gaussian_frechet_distance"]
    )
    as_gaussian = judge_samples(judge, real, fitted_gaussian_samples(real, 250, seed=5))
    assert as_gaussian["frechet_ratio"] == pytest.approx(1, abs=0.5)
    assert as_gaussian["gaussian_frechet_distance"] == verdict["gaussian_frechet_distance"]
    collapsed = judge_samples(judge, real, np.repeat(real[:1], 250, axis=0))
    assert collapsed["classes_covered"] == 1
    assert collapsed["frechet_ratio"] > 1


def test_real_images_judged_against_themselves_are_perfect(classifier, images):
    judge = judge_of_classifier(*classifier, prepare=lambda x: x)
    verdict = judge_samples(judge, images, images)
    assert verdict["frechet_distance"] == pytest.approx(0, abs=1e-5)
    assert verdict["class_coverage"] == 1
    assert verdict["class_total_variation"] == 0
    assert 1 / 3 < verdict["confidence"] < 1


def test_the_evaluator_judges_what_is_sampled_by_the_run_that_the_recipe_needs(classifier):
    model, variables = classifier
    dataset = small.images(shape=(2, 2, 1))
    # Of one brightness throughout, so that another size is no other picture.
    real = np.random.default_rng(0).uniform(-1, 1, (40, 1, 1, 1)).astype(np.float32)
    real = np.tile(real, (1, 4, 4, 1))

    class Painter:
        def sample(self, variables, key, count):
            return jnp.tile(jax.random.uniform(key, (count, 1, 1, 1), minval=-1), (1, 4, 4, 1))

    def rows(function, split):
        assert split == "test"
        return function({}, {"image": real})

    judge = types.SimpleNamespace(
        learner=types.SimpleNamespace(model=model), variables=variables, dataset=dataset
    )
    trained = types.SimpleNamespace(
        learner=Painter(), variables={}, rows=rows, needed={"judge": judge}
    )
    key = jax.random.key(5)
    found = JudgedSamples(count=30).evaluate(trained, "test", key)
    statistics = dataset.statistics["image"]

    def as_the_judge_has_learned(images):
        # What is in -1..1 here was in 0..1 there, of half the size and normalized.
        brightness = (images[:, ::2, ::2] + 1) / 2
        return (brightness - statistics["mean"]) / statistics["standard_deviation"]

    by_hand = judge_of_classifier(model, variables, as_the_judge_has_learned)
    expected = judge_samples(by_hand, real, np.asarray(Painter().sample({}, key, 30)))
    assert found.scalars == pytest.approx(expected, rel=1e-3)
    assert list(found.figures) == ["judged_samples"]


def test_too_few_samples_for_a_covariance_are_refused():
    with pytest.raises(UsageError, match="count=1: it must be at least 2"):
        JudgedSamples(count=1)
