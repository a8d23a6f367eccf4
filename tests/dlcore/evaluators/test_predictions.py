"""A classifier's answers and where it errs, against scikit-learn."""

import types

import jax
import numpy as np
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dlcore import evaluators
from dlcore.evaluators.predictions import confusion_matrix
from tests import small

classes = arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 3))


@given(classes, st.integers(0, 1000))
def test_the_confusion_matrix_counts_labels_by_row_and_answers_by_column(labels, seed):
    answers = np.random.default_rng(seed).integers(0, 4, len(labels))
    counts = confusion_matrix(labels, answers, 4)
    np.testing.assert_array_equal(
        counts, sklearn.metrics.confusion_matrix(labels, answers, labels=range(4))
    )
    assert counts.dtype == np.int64


def test_answers_are_kept_beside_the_labels_and_the_errors_drawn():
    dataset = small.images(count=37)
    count = dataset.num_examples("validation")
    probability = np.random.default_rng(0).dirichlet(np.ones(3), count).astype(np.float32)

    def rows(function, split):
        assert (function, split) == ("the learner's own", "validation")
        return probability

    trained = types.SimpleNamespace(
        learner=types.SimpleNamespace(predict="the learner's own"),
        dataset=dataset,
        rows=rows,
        # So that the last batch is padded.
        batches=lambda split: dataset.evaluation_batches(split, 4),
    )
    assert count % 4
    found = evaluators.create("predictions").evaluate(trained, "validation", jax.random.key(0))
    (kept,) = found.arrays.values()
    assert list(found.arrays) == ["validation_outputs"]
    split = dataset.splits["validation"]
    labels = split.fetch(np.arange(count))["label"]
    np.testing.assert_array_equal(kept["label"], labels)
    np.testing.assert_array_equal(kept["prediction"], probability.argmax(1))
    np.testing.assert_array_equal(kept["probability"], probability)
    expected = sklearn.metrics.confusion_matrix(labels, probability.argmax(1), labels=range(3))
    np.testing.assert_array_equal(kept["confusion"], expected)
    (axes, *_) = found.figures["confusion_matrix"].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b", "c"]
    assert not found.scalars


def test_a_prediction_of_nan_is_no_class_and_in_no_cell():
    dataset = small.images(count=37)
    count = dataset.num_examples("validation")
    probability = np.full((count, 3), np.nan, np.float32)
    probability[0] = [0, 1, 0]
    trained = types.SimpleNamespace(
        learner=types.SimpleNamespace(predict=None),
        dataset=dataset,
        rows=lambda function, split: probability,
        batches=lambda split: dataset.evaluation_batches(split, 4),
    )
    found = evaluators.create("predictions").evaluate(trained, "validation", jax.random.key(0))
    (kept,) = found.arrays.values()
    np.testing.assert_array_equal(kept["prediction"], [1] + [-1] * (count - 1))
    assert kept["confusion"].sum() == kept["confusion"][kept["label"][0], 1] == 1
