"""Calibration agrees with sums written out, example by example."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from dlcore.analysis import calibration


def written_out(probability, label, bins):
    """Guo et al. (2017), equations 2 and 3, bin by bin."""
    highest, answer = probability.max(1), probability.argmax(1)
    rows, error = [], 0.0
    for m in range(1, bins + 1):
        inside = (highest > (m - 1) / bins) & (highest <= m / bins)
        if inside.any():
            row = highest[inside].mean(), (answer == label)[inside].mean(), inside.sum()
            error += row[2] / len(label) * abs(row[0] - row[1])
        else:
            row = np.nan, np.nan, 0
        rows.append(row)
    return np.asarray(rows).T, error


@hypothesis.given(
    st.integers(2, 6), st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32 - 1)
)
def test_it_agrees_with_the_equations_written_out(classes, examples, bins, seed):
    draw = np.random.default_rng(seed)
    probability = draw.dirichlet(np.full(classes, 0.5), examples)
    label = draw.integers(classes, size=examples)
    measured = calibration.reliability(probability, label, bins)
    expected, error = written_out(probability, label, bins)
    np.testing.assert_allclose(measured, expected, rtol=1e-12)
    np.testing.assert_allclose(
        calibration.expected_calibration_error(measured), error, rtol=1e-9, atol=1e-12
    )


def test_an_edge_belongs_to_the_bin_below_it():
    probability = np.asarray([[0.6, 0.4], [0.7, 0.3], [1.0, 0.0]])
    measured = calibration.reliability(probability, np.zeros(3, int), bins=10)
    np.testing.assert_array_equal(measured.answers, [0, 0, 0, 0, 0, 1, 1, 0, 0, 1])


def test_who_is_right_as_often_as_it_says_has_no_error():
    probability = np.tile([0.75, 0.25], (400, 1))
    label = np.repeat([0, 1], [300, 100])
    measured = calibration.reliability(probability, label)
    assert calibration.expected_calibration_error(measured) < 1e-12


def test_who_is_sure_and_wrong_has_the_whole_error():
    measured = calibration.reliability(np.eye(3)[[0, 0, 0]], np.asarray([1, 1, 2]))
    assert calibration.expected_calibration_error(measured) == 1.0


def test_an_answer_of_nan_is_not_right():
    probability = np.array([[np.nan, np.nan], [0.0, 1.0]])
    measured = calibration.reliability(probability, np.array([0, 1]), bins=2)
    assert measured.accuracy[1] == 0.5
