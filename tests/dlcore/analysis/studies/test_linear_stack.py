"""The study of linear stacks: a line stays a line, however deep."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


def test_linear_layers_collapse_and_layers_with_a_nonlinearity_do_not():
    study = studies.create("linear_stack", depth=4, units=8)
    numbers = study.run()
    assert numbers["collapse_error"] < 1e-5
    assert numbers["linear_unexplained"] < 1e-8
    assert numbers["nonlinear_unexplained"] > 0.01
    # The line through its ends is the whole of it.
    ends = numbers["linear"][[0, -1]]
    line = np.interp(numbers["x"], [-3, 3], ends)
    np.testing.assert_allclose(numbers["collapsed"], line, atol=1e-5 * np.abs(ends).max())
    assert len(study.draw(numbers).axes) == 2


def test_one_layer_is_linear_whatever_the_nonlinearity():
    numbers = studies.create("linear_stack", depth=1, nonlinearity="relu").run()
    assert numbers["nonlinear_unexplained"] < 1e-8


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"nonlinearity": "swoosh"}, "unknown activation 'swoosh'"),
        ({"depth": 0}, "depth=0: it must be at least 1"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        studies.create("linear_stack", **options)
