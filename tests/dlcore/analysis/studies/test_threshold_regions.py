"""Regions of threshold units, against the areas and shapes of geometry."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def numbers():
    return studies.create("threshold_regions", resolution=120).run()


def middles_inside(region):
    """Of pairs of points of a region, the share whose middle is in it, too (to the grid)."""
    rows, columns = np.nonzero(region)
    first, second = np.random.default_rng(0).integers(0, len(rows), (2, 2000))
    row, column = (rows[first] + rows[second]) // 2, (columns[first] + columns[second]) // 2
    return region[row, column].mean()


@pytest.mark.parametrize("name", ["half_plane", "polygon", "star", "ring"])
def test_each_network_answers_on_the_area_of_its_shape(numbers, name):
    assert numbers[f"{name}_area"] == pytest.approx(numbers[f"{name}_area_exact"], rel=0.01)


def test_the_star_s_exact_area_is_the_pentagram_s(numbers):
    # By the golden ratio: a pentagram of tip radius R has the area 1.122569941... R^2.
    assert numbers["star_area_exact"] == pytest.approx(1.1225699414 * 0.9**2)


def test_one_unit_answers_on_one_side_of_a_line(numbers):
    x, y = np.meshgrid(numbers["axis"], numbers["axis"])
    np.testing.assert_array_equal(numbers["half_plane"], y > x / 2)
    assert numbers["half_plane_area"] == 2


def test_the_region_of_two_layers_is_convex_where_they_need_every_side(numbers):
    assert middles_inside(numbers["polygon"]) > 0.99
    assert middles_inside(numbers["star"]) < 0.95
    assert middles_inside(numbers["ring"]) < 0.8


def test_three_layers_answer_on_a_ring_around_an_island(numbers):
    across = numbers["ring"][60]
    assert np.abs(np.diff(across)).sum() == 6  # Into the ring, the island and the ring, and out.


def test_options_out_of_range_are_refused():
    for options in ({"sides": 4}, {"resolution": 7}):
        with pytest.raises(UsageError, match=f"{next(iter(options))}(=| is)"):
            studies.create("threshold_regions", **options)
