"""The errors of one hidden layer, against what is known of them."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.analysis.studies.universal_approximation import FUNCTIONS, grid
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def numbers():
    options = {"widths": (1, 4, 8), "starts": 2, "iterations": 150}
    return studies.create("universal_approximation", **options).run()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_falls_with_the_width(numbers, name):
    errors = numbers[f"{name}_root_mean_square_error"]
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < errors[0] / 20
    largest = numbers[f"{name}_largest_error"]
    assert (largest >= errors).all()
    assert numbers[f"{name}_largest_error_of_widest"] == largest[-1]


@pytest.mark.parametrize("name", ["wave", "corner", "chirp"])
def test_a_fit_is_nearer_than_the_staircase_of_as_many_threshold_units(numbers, name):
    # The theorem's proof by hand: n steps of equal width come within half of what the function
    # varies over one of them. No sigmoid needs to be that far.
    x = np.linspace(0, 1, 1 + 8 * 100)
    y = FUNCTIONS[name][0](x[:, None])
    steps = [y[i * 100 : i * 100 + 101] for i in range(8)]
    staircase = max(np.ptp(step) / 2 for step in steps)
    assert numbers[f"{name}_largest_error"][-1] < staircase / 5


def test_the_errors_are_those_of_the_fits(numbers):
    errors = numbers["chirp_fits"] - np.sin(12 * numbers["x"] ** 2)
    np.testing.assert_allclose(numbers["chirp_largest_error"], np.abs(errors).max(1))
    np.testing.assert_allclose(
        numbers["chirp_root_mean_square_error"], np.sqrt((errors**2).mean(1))
    )


def test_the_finer_grid_holds_the_points_of_the_fit_and_those_midway():
    np.testing.assert_allclose(grid(5, 1)[::2], grid(3, 1))
    assert grid(3, 2).shape == (9, 2)
    assert {tuple(point) for point in grid(2, 2)} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_options_out_of_range_are_refused():
    wrong_widths = ({"widths": ()}, {"widths": (0, 2)}, {"widths": (4, 2)})
    for options in (*wrong_widths, {"starts": 0}, {"iterations": 0}):
        with pytest.raises(UsageError, match=f"{next(iter(options))}(=| is)"):
            studies.create("universal_approximation", **options)
