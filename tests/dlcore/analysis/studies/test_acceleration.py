"""Measured powers of t against theory, and the descents against NumPy."""

import functools

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


@functools.cache
def measured():
    study = studies.create("acceleration", steps=1000, dimension=2000)
    return study, study.run()


def test_constant_momentum_has_the_power_of_gradient_descent_and_growing_momentum_twice_it():
    _, numbers = measured()
    for name in ("gradient_descent", "momentum", "nesterov_constant"):
        assert numbers[f"power_{name}"] == pytest.approx(-1.0, abs=0.03)
    assert numbers["power_nesterov"] == pytest.approx(-2.0, abs=0.1)
    # At momentum 0.9 a velocity is ten gradients: as if the rate were tenfold.
    for name in ("momentum", "nesterov_constant"):
        ratio = numbers["error_gradient_descent"][-1] / numbers[f"error_{name}"][-1]
        assert ratio == pytest.approx(10.0, rel=0.05)


def test_no_error_exceeds_its_proved_bound():
    _, numbers = measured()
    for name in ("gradient_descent", "nesterov"):
        assert (numbers[f"error_{name}"] <= numbers[f"bound_{name}"]).all()


def test_gradient_descent_has_the_closed_form_of_its_spectrum():
    study, numbers = measured()
    curvature, start = study.problem()
    step = numbers["step"][:, None]
    error = (curvature * start**2 * (1 - curvature) ** (2 * step)).sum(axis=-1) / 2
    np.testing.assert_allclose(numbers["error_gradient_descent"], error, rtol=1e-9)
    # The sum stands for the integral of (1 - c)^(2t) over the curvatures c.
    np.testing.assert_allclose(error, 1 / (4 * numbers["step"] + 2), rtol=1e-4)


def test_nesterovs_method_takes_its_gradient_ahead_with_growing_momentum():
    study, numbers = measured()
    curvature, weights = study.problem()
    last, scale = weights, 1.0
    ahead = weights
    for error in numbers["error_nesterov"][:50]:
        weights = ahead - curvature * ahead
        grown = (1 + np.sqrt(1 + 4 * scale**2)) / 2
        ahead = weights + (scale - 1) / grown * (weights - last)
        last, scale = weights, grown
        assert error == pytest.approx((curvature * weights**2).sum() / 2, rel=1e-9)


def test_the_figure_has_each_error_and_both_bounds():
    study, numbers = measured()
    (axes,) = study.draw(numbers).axes
    assert len(axes.lines) == 6
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"steps": 19}, "steps=19"),
        ({"steps": 50, "dimension": 49}, "dimension=49.*50 steps"),
        ({"momentum": 1.0}, "momentum=1.0"),
    ],
)
def test_bad_options_are_refused_by_name(options, named):
    with pytest.raises(UsageError, match=named):
        studies.create("acceleration", **options)
