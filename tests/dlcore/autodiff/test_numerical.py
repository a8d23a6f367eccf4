"""Differences against derivatives that are known, and the two ends of their error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore.autodiff.numerical import (
    CENTRAL_STEP,
    FORWARD_STEP,
    central_difference,
    forward_difference,
)
from dlcore.errors import UsageError


def wave(x):
    return np.sin(x[0, 0]) * np.exp(x[0, 1]) + x[1, 0] * x[1, 1] ** 2


POINT = np.array([[0.4, -0.3], [1.1, 0.7]])
GRADIENT = np.array(
    [[np.cos(0.4) * np.exp(-0.3), np.sin(0.4) * np.exp(-0.3)], [0.49, 2 * 1.1 * 0.7]]
)


def test_both_differences_give_the_gradient_to_their_precision():
    forward = forward_difference(wave, POINT)
    central = central_difference(wave, POINT)
    assert forward.shape == central.shape == POINT.shape
    np.testing.assert_allclose(forward, GRADIENT, atol=5e-8)
    np.testing.assert_allclose(central, GRADIENT, atol=5e-10)
    assert np.abs(forward - GRADIENT).max() > 10 * np.abs(central - GRADIENT).max()


@settings(max_examples=30)
@given(st.floats(-3, 3), st.floats(-3, 3), st.sampled_from([0.5, 0.25, 0.125]))
def test_a_quadratic_is_exact_by_central_and_off_by_its_curvature_by_forward_difference(a, b, step):
    # (a (x + h)^2 - a x^2) / h = 2 a x + a h; the other end of the quotient cancels that term.
    def quadratic(x):
        return (a * x**2 + b * x).sum()

    point = np.array([0.75])
    slope = 2 * a * point + b
    assert central_difference(quadratic, point, step) == pytest.approx(slope, abs=1e-12)
    assert forward_difference(quadratic, point, step) == pytest.approx(slope + a * step, abs=1e-12)


@pytest.mark.parametrize(
    ("difference", "order", "best"),
    [(forward_difference, 1, FORWARD_STEP), (central_difference, 2, CENTRAL_STEP)],
)
def test_the_error_falls_with_its_order_and_rises_again_below_the_best_step(
    difference, order, best
):
    def error(step):
        # Many points, because rounding hits each by chance.
        return np.mean(
            [
                abs(difference(np.exp, np.array(x), step) / np.exp(x) - 1)
                for x in np.arange(1, 2, 0.02)
            ]
        )

    ratio = error(1e-2) / error(1e-3)
    assert ratio == pytest.approx(10**order, rel=0.05)
    # Rounding alone: epsilon over the step.
    assert 0.02 < error(1e-13) / (np.finfo(float).eps / 1e-13) < 2
    assert error(best) < min(error(best * 100), error(best / 100)) / 5


@pytest.mark.parametrize("difference", [forward_difference, central_difference])
def test_the_divisor_is_the_step_that_was_taken_and_not_the_one_that_was_meant(difference):
    # Next to 3e7 numbers are 4e-9 apart: 1e-8 cannot be added exactly.
    assert difference(lambda x: x, np.array(1e8 / 3), 1e-8) == 1


def test_the_point_stays_as_it_was():
    point = POINT.copy()
    central_difference(wave, point)
    np.testing.assert_array_equal(point, POINT)


@pytest.mark.parametrize("difference", [forward_difference, central_difference])
@pytest.mark.parametrize("step", [0.0, -1e-3, float("nan")])
def test_a_step_that_is_not_positive_is_refused(difference, step):
    with pytest.raises(UsageError, match=f"step of a difference is {step}: it must be above 0"):
        difference(wave, POINT, step)
