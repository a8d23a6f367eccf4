"""The area under the curve against its own definition, a probability over pairs."""

import dataclasses

import jax
import numpy as np
import pytest

from dlcore import evaluators
from dlcore.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the evaluator asks of a trained model, for answers that are known."""

    probability: np.ndarray
    label: np.ndarray

    @property
    def learner(self):
        return self

    def predict(self, variables, batch):
        raise AssertionError("only its name is used")

    def rows(self, function, split):
        return self.probability

    def batches(self, split):
        mask = np.ones(len(self.label))
        padded = {"label": np.append(self.label, 1), "mask": np.append(mask, 0)}
        return iter([padded])


def found(answers):
    return evaluators.create("roc").evaluate(answers, "test", jax.random.key(0))


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 50)
    # Of few values, so that there are ties.
    yes = np.clip(np.round(0.3 * label + rng.uniform(0, 0.7, 50), 1), 0, 1)
    return Answers(np.stack([1 - yes, yes], -1), label)


def test_the_area_is_the_share_of_pairs_in_the_right_order(answers):
    yes, label = answers.probability[:, 1], answers.label
    gap = yes[label == 1][:, None] - yes[label == 0][None]
    assert 0.5 < (gap > 0).mean() < 1
    assert (gap == 0).any()
    expected = (gap > 0).mean() + (gap == 0).mean() / 2
    assert found(answers).scalars["area_under_curve"] == pytest.approx(expected)


def test_the_best_threshold_and_the_curve_are_those_of_counting(answers):
    findings = found(answers)
    yes, label = answers.probability[:, 1], answers.label == 1
    curve = findings.arrays["roc"]
    for false_alarms, recall, threshold in zip(*curve.values(), strict=True):
        assert recall == pytest.approx((yes >= threshold)[label].mean())
        assert false_alarms == pytest.approx((yes >= threshold)[~label].mean())
    gains = [(yes >= t)[label].mean() - (yes >= t)[~label].mean() for t in np.unique(yes)]
    best = findings.scalars["best_threshold"]
    assert (yes >= best)[label].mean() - (yes >= best)[~label].mean() == pytest.approx(max(gains))
    assert findings.figures["roc"].axes


def test_of_one_class_there_is_no_area():
    one = Answers(np.array([[0.1, 0.9], [0.6, 0.4]]), np.array([1, 1]))
    assert np.isnan(found(one).scalars["area_under_curve"])


def test_three_classes_are_refused():
    three = Answers(np.full((4, 3), 1 / 3), np.array([0, 1, 2, 0]))
    with pytest.raises(UsageError, match="judges two classes, and the task has 3"):
        found(three)


def test_an_answer_of_nan_leaves_no_area(answers):
    answers.probability[3] = np.nan
    assert np.isnan(found(answers).scalars["area_under_curve"])
