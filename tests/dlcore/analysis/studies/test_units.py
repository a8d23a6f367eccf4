"""The study of single units: what each of them answers, point by point."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


def test_every_unit_answers_what_its_formula_says():
    study = studies.create("units", bias=0.25, width=0.5, points=9)
    numbers = study.run()
    x1, x2 = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9))
    total = x1 + 2 * x2 + 0.25
    expected = {
        "sum": total,
        "sigmoid": 1 / (1 + np.exp(-total)),
        "threshold": total >= 0,
        "maxout": np.maximum(total, -x2),
        "norm": np.hypot(x1, 2 * x2),
        "radial basis": np.exp(-((x1 - 0.5) ** 2 + (x2 + 0.5) ** 2) / (2 * 0.5**2)),
    }
    assert {name for name in numbers if np.ndim(numbers[name])} == {"axis", *expected}
    for name, values in expected.items():
        np.testing.assert_allclose(numbers[name], values, rtol=1e-5, atol=1e-6)
    assert len(study.draw(numbers).axes) == len(expected)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"width": 0.0}, "width=0.0: it must be above 0"),
        ({"points": 1}, "points=1: it must be at least 2"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        studies.create("units", **options)
