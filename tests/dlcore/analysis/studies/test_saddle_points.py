"""Shares of minima against topology and the theory of Gaussian fields."""

import functools
import math

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


@functools.cache
def measured():
    study = studies.create(
        "saddle_points", dimensions=(1, 2, 3, 6), samples=3000, widths=(4,), steps=300
    )
    return study, study.run()


@pytest.mark.slow
def test_the_share_of_minima_is_that_of_a_gaussian_field():
    _, numbers = measured()
    # In one dimension minima and maxima take turns; in two there are as many extrema as saddles
    # (Morse); in three, extrema are to saddles as 29 - 6 sqrt(6) to 29 + 6 sqrt(6) (Bardeen et
    # al., 1986).
    extrema = (29 - 6 * math.sqrt(6)) / 58
    np.testing.assert_allclose(numbers["minima"][:3], [0.5, 0.25, extrema / 2], atol=0.02)
    assert numbers["minima"][0] == pytest.approx(0.5, abs=1e-12)
    # A million Hessians of a Gaussian field drawn directly give 0.013; these few err by 0.01.
    assert numbers["minima"][3] == pytest.approx(0.013, abs=0.03)


def test_the_higher_a_random_function_the_more_directions_lead_down():
    _, numbers = measured()
    order = np.argsort(numbers["height"])
    low, high = numbers["negative"][order[:300]], numbers["negative"][order[-300:]]
    assert low.mean() < 1 / 3
    assert high.mean() > 2 / 3
    assert numbers["negative"].mean() == pytest.approx(0.5, abs=0.02)
    assert numbers["height"].std() == pytest.approx(1.0, abs=0.04)
    assert numbers["correlation"] > 0.7


def test_training_leaves_a_network_fewer_directions_that_lead_down():
    _, numbers = measured()
    # 2 inputs, the hidden units and 2 outputs, with biases.
    np.testing.assert_array_equal(numbers["parameters"], [4 * 3 + 2 * 5])
    assert (numbers["negative_before"] > 0.1).all()
    assert (numbers["negative_after"] < numbers["negative_before"] / 2).all()


def test_the_figure_has_a_panel_for_fields_heights_and_networks():
    study, numbers = measured()
    titles = [axes.get_title(loc="left") for axes in study.draw(numbers).axes]
    assert titles == ["random functions", "in 6 dimensions", "networks"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dimensions": (1, 0)}, "dimensions=1,0"),
        ({"widths": ()}, "widths(=| is)"),
        ({"samples": 1}, "samples=1"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_bad_options_are_refused_by_name(options, named):
    with pytest.raises(UsageError, match=named):
        studies.create("saddle_points", **options)
