"""What moves with a shift, and what forgets it."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def numbers():
    return studies.create("shift", size=36, max_shift=4, windows=(1, 4, 8)).run()


def test_a_convolution_moves_with_the_photograph_exactly(numbers):
    assert numbers["covariance_error"][0].max() < 1e-6


def test_a_convolution_of_stride_2_moves_by_whole_strides_alone(numbers):
    errors = numbers["covariance_error"][1]
    assert errors[[0, 2, 4]].max() < 1e-6
    assert errors[[1, 3]].min() > 0.3


def test_unshared_random_filters_answer_the_moved_photograph_with_something_unrelated(numbers):
    # Two uncorrelated responses of the same norm are sqrt(2) of it apart.
    np.testing.assert_allclose(numbers["covariance_error"][2][1:], np.sqrt(2), rtol=0.05)


def test_the_larger_the_window_the_less_a_shift_changes(numbers):
    changes = numbers["change_by_window"]
    np.testing.assert_array_equal(changes[:, 0], 0)
    assert (np.diff(changes[:, 1:], axis=0) < 0).all()
    average, l2, global_max, global_average = numbers["change_by_pooling"][:, 1:]
    assert (global_average < average / 2).all()
    assert global_max[-1] < l2[-1]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_shift": 0}, "max_shift=0"),
        ({"size": 12, "windows": (1,)}, "max_shift=8: it must be from 1 to size - 6 = 6"),
        ({"windows": (1, 65)}, "each must be from 1 to size - 4 = 64"),
        ({"windows": ()}, "windows(=| is)"),
    ],
)
def test_options_out_of_range_are_refused(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        studies.create("shift", **options)
