"""Several yes-or-no answers at once, against SciPy and scikit-learn, with masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from dlcore import metrics, models, tasks
from dlcore.tasks.multi_label import tag_metrics

COUNT, TAGS, MASKED = 20, 4, 5


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    tags = rng.integers(0, 2, (COUNT, TAGS)).astype(np.float32)
    # Right more often than not, so that some rows are right throughout.
    logits = (2 * tags - 1 + rng.normal(size=(COUNT, TAGS))).astype(np.float32)
    mask = (np.arange(COUNT) < COUNT - MASKED).astype(np.float32)
    logits[mask == 0] = np.nan
    return jax.tree.map(jnp.asarray, {"image": logits, "tags": tags, "mask": mask})


@pytest.fixture(scope="module")
def task():
    return tasks.create("multi_label", models.create("softmax_regression", num_classes=TAGS))


PARAMS = {"logits": {"kernel": jnp.eye(TAGS), "bias": jnp.zeros(TAGS)}}


def test_an_evaluation_scores_each_tag_and_whole_answers(task, batch):
    logits, tags = (batch[name][: COUNT - MASKED] for name in ("image", "tags"))
    scores = metrics.compute(jax.jit(task.evaluate)({"params": PARAMS}, batch, jax.random.key(0)))
    log_p = scipy.special.log_expit((2 * np.float64(tags) - 1) * logits)
    assert scores["loss"] == pytest.approx(-log_p.sum(1).mean(), rel=1e-5)
    answers = logits > 0
    hamming = sklearn.metrics.hamming_loss(tags, answers)
    assert scores["accuracy"] == pytest.approx(1 - hamming)
    exact = sklearn.metrics.accuracy_score(tags, answers)
    assert 0 < exact < scores["accuracy"]
    assert scores["exact_match"] == pytest.approx(exact)


def test_predictions_are_each_tag_s_own_probability(task, batch):
    probabilities = task.predict({"params": PARAMS}, batch)[: COUNT - MASKED]
    expected = scipy.special.expit(np.float64(batch["image"][: COUNT - MASKED]))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)


def test_a_tag_s_loss_moves_no_other_tag(task, batch):
    @jax.jit
    @jax.grad
    def gradient(params, tags):
        clean = {**batch, "image": jnp.nan_to_num(batch["image"]), "tags": tags}
        return task.loss(params, {}, clean, jax.random.key(0))[0]

    others = batch["tags"].at[:, 2].set(1 - batch["tags"][:, 2])
    before, after = (
        np.asarray(gradient(PARAMS, tags)["logits"]["kernel"]) for tags in (batch["tags"], others)
    )
    change = np.abs(after - before).max(0)
    assert change[2] > 0
    np.testing.assert_array_equal(np.delete(change, 2), 0)


def test_log_odds_of_nan_are_wrong_and_counted(task):
    nan = np.nan
    image = jnp.array([[nan, nan, nan, nan], [1.0, -1.0, nan, -1.0], [1.0, -1.0, -1.0, -1.0]])
    tags = jnp.array([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    batch = {"image": image, "tags": tags, "mask": jnp.ones(3)}
    # A matrix product would make all outputs of the second row NaN.
    scores = metrics.compute(tag_metrics(image, tags, batch["mask"]))
    assert scores["accuracy"] == pytest.approx((0 + 3 + 4) / 12)
    assert scores["exact_match"] == pytest.approx(1 / 3)
    found = metrics.compute(task.evaluate({"params": PARAMS}, batch, jax.random.key(0)))
    assert found["nan_predictions"] == 2
    assert found["exact_match"] == pytest.approx(1 / 3)
