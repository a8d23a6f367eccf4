"""The rates of gradient descent against the closed form of a quadratic."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.analysis.studies.learning_rates import START
from dlcore.errors import UsageError


def test_each_coordinate_shrinks_by_one_minus_rate_times_curvature():
    study = studies.create("learning_rates", steps=40, condition=4.0, percents=(10, 99, 103))
    numbers = study.run()
    np.testing.assert_allclose(numbers["rate"], [0.05, 0.495, 0.515])
    for rate, path, loss in zip(numbers["rate"], numbers["path"], numbers["loss"], strict=True):
        powers = (1 - rate * np.asarray([1.0, 4.0])) ** np.arange(41)[:, None]
        np.testing.assert_allclose(path, powers * START, rtol=1e-10)
        np.testing.assert_allclose(loss, (path[:, 0] ** 2 + 4 * path[:, 1] ** 2) / 2, rtol=1e-10)


def test_the_measured_speed_is_the_predicted_one_and_best_between_the_extremes():
    numbers = studies.create("learning_rates", steps=400).run()
    np.testing.assert_allclose(numbers["factor_measured"], numbers["factor_predicted"], rtol=2e-3)
    small, half, best, large = numbers["factor_measured"]
    assert best < half < small < 1 < large
    assert best == pytest.approx((10 - 1) / (10 + 1), rel=2e-3)
    assert numbers["best_rate"] == pytest.approx(numbers["rate"][2], rel=2e-3)


def test_the_figure_has_a_panel_for_each_rate():
    study = studies.create("learning_rates", steps=3, percents=(50, 120))
    titles = [axes.get_title(loc="left") for axes in study.draw(study.run()).axes]
    assert [title.split(":")[0] for title in titles] == ["rate 0.1", "rate 0.24"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"percents": (0, 50)}, "percents=0,50"),
        ({"percents": ()}, "percents(=| is)"),
        ({"condition": 1.0}, "condition=1.0"),
        ({"steps": 1}, "steps=1"),
    ],
)
def test_bad_options_are_refused_by_name(options, named):
    with pytest.raises(UsageError, match=named):
        studies.create("learning_rates", **options)
