"""The study of activation functions: its curves, and the derivatives that it vouches for."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError
from dlcore.nn.activations import NAMES


def test_the_closed_form_of_every_derivative_is_that_of_jax_grad():
    study = studies.create("activations", points=20)
    numbers = study.run()
    drawn = {name.split()[1].split(":")[0] for name in numbers if name.startswith("derivative ")}
    assert drawn == set(NAMES)
    assert numbers["largest_derivative_error"] < 1e-5
    x = np.float64(numbers["x"])
    # Of two inputs softmax is a sigmoid of their difference.
    np.testing.assert_allclose(numbers["value softmax"], 1 / (1 + np.exp(-1.5 * x)), rtol=1e-5)
    np.testing.assert_allclose(numbers["value maxout"], np.maximum(x, -x / 2), rtol=1e-6)
    assert len(study.draw(numbers).axes) == len(study.functions.split(","))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"functions": "tanh,swoosh"}, "unknown activation 'swoosh'"),
        ({"limit": 0.0}, "limit=0.0: it must be above 0"),
        ({"points": 41}, "points=41: it must be even"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        studies.create("activations", **options)
