"""Yes or no by one number, against scikit-learn, with masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from scipy import special

from dlcore import data, metrics, models, tasks
from dlcore.data.features import ClassLabel, Image
from dlcore.errors import UsageError
from dlcore.train import Recipe
from dlcore.train.preparation import build, complete

COUNT, MASKED = 40, 7
REAL = slice(0, COUNT - MASKED)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, COUNT).astype(np.int32)
    log_odds = (2.0 * label - 1 + 1.5 * rng.normal(size=COUNT)).astype(np.float32)[:, None]
    mask = (np.arange(COUNT) < COUNT - MASKED).astype(np.float32)
    log_odds[mask == 0] = np.nan
    return jax.tree.map(jnp.asarray, {"image": log_odds, "label": label, "mask": mask})


def task(**options):
    model = models.create("linear_units", num_classes=1)
    return tasks.create("binary_classification", model, **options)


def parameters():
    """Those of a model that hands its input on."""
    shapes = jax.eval_shape(task().model.init, jax.random.key(0), jnp.zeros((1, 1)))
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, float(leaf.ndim > 1)), shapes)


@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.9])
def test_an_evaluation_scores_the_answers_at_the_threshold(batch, threshold):
    found = jax.jit(task(threshold=threshold).evaluate)(parameters(), batch, jax.random.key(0))
    scores = metrics.compute(found)
    label = np.asarray(batch["label"][REAL])
    probability = special.expit(np.float64(batch["image"][REAL, 0]))
    answer = probability >= threshold
    assert 0 < answer.sum() < len(answer)
    assert scores == {
        "loss": pytest.approx(sklearn.metrics.log_loss(label, probability), rel=1e-5),
        "accuracy": pytest.approx(sklearn.metrics.accuracy_score(label, answer)),
        "precision": pytest.approx(sklearn.metrics.precision_score(label, answer)),
        "recall": pytest.approx(sklearn.metrics.recall_score(label, answer)),
    }


def test_the_two_probabilities_are_those_of_no_and_of_yes(batch):
    probability = task().predict(parameters(), batch)[REAL]
    yes = special.expit(np.float64(batch["image"][REAL, 0]))
    np.testing.assert_allclose(probability, np.stack([1 - yes, yes], -1), rtol=1e-4)


def test_no_accuracy_of_a_small_probability_is_lost():
    batch = {"image": jnp.array([[30.0], [-30.0]])}
    no, yes = np.asarray(task().predict(parameters(), batch)).T
    np.testing.assert_allclose(no, special.expit([-30.0, 30.0]), rtol=1e-5)
    np.testing.assert_allclose(yes, special.expit([30.0, -30.0]), rtol=1e-5)


def dataset_of(classes):
    arrays = {"image": np.zeros((10, 4, 4, 1), np.float32), "label": np.arange(10) % len(classes)}
    features = {"image": Image((4, 4, 1)), "label": ClassLabel(classes)}
    return data.from_arrays(features, {"train": arrays}, name="made")


RECIPE = Recipe(
    name="yes_or_no", task="binary_classification", model="mlp", data="made", learning_rate=0.1
)


def test_the_model_has_one_output_for_two_classes():
    completed, learner = build(RECIPE, dataset_of(("no", "yes")))
    assert learner.model.num_classes == completed.model_options["num_classes"] == 1


def test_three_classes_are_refused():
    with pytest.raises(UsageError, match="takes two classes, and the dataset has 3: use classif"):
        complete(RECIPE, dataset_of(("a", "b", "c")))


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(UsageError, match="threshold=.*: it must be above 0 and below 1"):
        task(threshold=threshold)


def test_log_odds_of_nan_are_wrong_for_either_label_and_counted():
    batch = {
        "image": jnp.array([[np.nan], [np.nan], [-1.0], [1.0]]),
        "label": jnp.array([0, 1, 0, 1]),
        "mask": jnp.ones(4),
    }
    found = metrics.compute(task().evaluate(parameters(), batch, jax.random.key(0)))
    assert (found["accuracy"], found["nan_predictions"]) == (0.5, 2)
    assert (found["precision"], found["recall"]) == (1.0, 0.5)
