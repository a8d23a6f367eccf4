"""The learning-rate range test, against the same descent in float64 NumPy."""

import numpy as np
import optax
import pytest

from dlcore import data, models, optim, parallel, tasks
from dlcore.data.features import ClassLabel, Row
from dlcore.errors import UsageError
from dlcore.train import program, rate_range

EXAMPLES = 32


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(EXAMPLES, 5)).astype(np.float32)
    arrays = {"image": inputs, "label": rng.integers(3, size=EXAMPLES)}
    features = {"image": Row(tuple("abcde")), "label": ClassLabel(("a", "b", "c"))}
    options = {"validation_fraction": 0.0, "normalize": "none"}
    splits = {"train": arrays, "test": arrays}
    return data.from_arrays(features, splits, options, "table")


@pytest.fixture(scope="module")
def range_test(dataset):
    """`range_test(rates)`: gradient descent, the whole training set at each step."""

    def run(rates):
        schedule = optax.constant_schedule(float(rates[0]))
        made = program.build(
            tasks.create("classification", models.create("softmax_regression", num_classes=3)),
            optim.builder.build("sgd", schedule),
            schedule,
            dataset.transform,
            dataset.example_batch(EXAMPLES),
            parallel.make("jit"),
            seed=0,
            log_every=10,
        )
        return rate_range.run(made, dataset.train_batches(EXAMPLES, seed=0), rates)

    return run


def losses_by_hand(dataset, rates):
    """The loss of softmax regression before each step of gradient descent from zero."""
    batch = next(dataset.evaluation_batches("train", EXAMPLES))
    inputs = np.concatenate([batch["image"], np.ones((EXAMPLES, 1))], axis=1, dtype=np.float64)
    weights, labels = np.zeros((6, 3)), batch["label"]
    for rate in rates:
        scores = inputs @ weights
        logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        yield -logs[np.arange(EXAMPLES), labels].mean()
        errors = np.exp(logs) - np.eye(3)[labels]
        weights = weights - rate * inputs.T @ errors / EXAMPLES


def test_each_update_is_made_at_its_own_rate(dataset, range_test):
    rates = np.geomspace(0.01, 1.0, 30)
    found = range_test(rates)
    np.testing.assert_array_equal(found.rate, rates)
    np.testing.assert_allclose(found.loss, list(losses_by_hand(dataset, rates)), rtol=1e-4)
    weights = 0.1 * 0.9 ** np.arange(30)[::-1]
    assert found.smoothed[-1] == pytest.approx((weights * found.loss).sum() / weights.sum())
    assert found.smoothed[0] == pytest.approx(found.loss[0])


def test_it_ends_where_the_loss_is_several_times_its_lowest(range_test):
    found = range_test(np.geomspace(0.01, 1e6, 60))
    assert len(found.rate) < 60
    assert found.smoothed[-1] > 4 * found.smoothed.min()
    assert (found.smoothed[:-1] <= 4 * np.minimum.accumulate(found.smoothed)[:-1]).all()


def test_it_ends_before_a_loss_that_is_not_finite(range_test):
    found = range_test(np.asarray([0.01, 0.02, 1e38, 1e38]))
    assert np.isfinite(found.loss).all()
    assert len(found.loss) == 3


def test_where_the_lowest_rate_diverges_it_says_so(range_test):
    with pytest.raises(UsageError, match="not finite at a learning rate of 3e\\+38: begin lower"):
        range_test(np.asarray([3e38, 3.1e38]))


def test_the_range_is_marked_by_the_steepest_fall_and_the_lowest_loss():
    # By log rate a sine: it falls fastest at pi, is lowest at 3 pi / 2, and falls again later.
    logs = np.linspace(np.pi / 2, 3.5 * np.pi, 301)
    found = rate_range.RangeTest(np.exp(logs), np.sin(logs), np.sin(logs) + 1e-3 * logs)
    assert np.log(found.steepest) == pytest.approx(np.pi, abs=0.02)
    assert np.log(found.lowest) == pytest.approx(1.5 * np.pi, abs=0.02)
