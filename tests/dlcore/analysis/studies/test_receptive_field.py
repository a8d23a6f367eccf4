"""How far stacks see: measured against the formula, and against counting paths."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def numbers():
    return studies.create("receptive_field", depth=4, channels=3, draws=4000).run()


def test_the_measured_fields_are_those_of_the_formula_and_of_the_textbook(numbers):
    np.testing.assert_array_equal(numbers["field_measured"], numbers["field_by_formula"])
    expected = [[3, 5, 7, 9], [5, 9, 13, 17], [3, 4, 8, 10], [3, 7, 15, 31]]
    np.testing.assert_array_equal(numbers["field_measured"], expected)


def test_it_takes_three_3x3_for_the_field_of_a_7x7_and_they_cost_less(numbers):
    assert (numbers["field_of_two_3x3"], numbers["field_of_three_3x3"]) == (5, 7)
    assert numbers["weights_three_3x3_over_one_7x7"] == pytest.approx(27 / 49)
    np.testing.assert_array_equal(numbers["weights_one_layer"], 9 * np.array([9, 25, 49, 81]))
    np.testing.assert_array_equal(numbers["weights_stacked"], 9 * 9 * np.arange(1, 5))


def test_the_gradient_over_a_field_is_as_large_as_the_paths_are_many(numbers):
    paths = np.array([1, 3, 6, 7, 6, 3, 1]) / 27
    np.testing.assert_allclose(numbers["gradient_stacked"], np.sqrt(paths), rtol=0.1)
    np.testing.assert_allclose(numbers["gradient_one_layer"], np.sqrt(np.ones(7) / 7), rtol=0.1)


def test_options_out_of_range_are_refused():
    for options in ({"depth": 2}, {"channels": 0}, {"draws": 0}):
        with pytest.raises(UsageError, match=f"{next(iter(options))}(=| is)"):
            studies.create("receptive_field", **options)
