"""Initializers against the distributions their papers state."""

import jax
import numpy as np
import pytest
import scipy.stats

from dlcore.nn.initializers import uniform_by_fan_in


def test_uniform_by_fan_in_is_uniform_between_its_bounds():
    draws = np.asarray(uniform_by_fan_in(25)(jax.random.key(0), (5, 5, 1, 200)))
    assert scipy.stats.kstest(draws.ravel(), "uniform", (-2.4 / 25, 4.8 / 25)).pvalue > 0.01


def test_uniform_by_fan_in_bounds_each_unit_by_its_own_fan_in():
    fan_in = np.array([10, 100, 1000])
    draws = np.asarray(uniform_by_fan_in(fan_in)(jax.random.key(1), (2000, 3)))
    np.testing.assert_array_less(np.abs(draws).max(0), 2.4 / fan_in)
    assert draws.std(0) == pytest.approx(2.4 / fan_in / np.sqrt(3), rel=0.05)
