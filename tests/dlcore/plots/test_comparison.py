"""Figures of several runs show the arrays they are given; how they look was judged by eye."""

import numpy as np
import pytest

from dlcore import plots
from dlcore.errors import UsageError

EPOCHS = np.asarray([1.0, 2.0, 3.0])


def metrics(**values):
    return {"epoch": EPOCHS, **{name: np.asarray(own) for name, own in values.items()}}


RUNS = {
    "small": {
        "train": metrics(loss=[2.0, 0.5, 0.01]),
        "validation": metrics(loss=[2.0, 1.5, 1.0], accuracy=[0.2, 0.5, 0.6]),
    },
    "large": {"validation": metrics(loss=[1.0, 0.9, 0.8], accuracy=[0.5, 0.6, 0.7])},
}


def lines(axes):
    return {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.lines}


def test_a_metric_has_a_panel_for_each_split_that_has_it_and_a_line_for_each_run():
    panels = plots.compared_curves(RUNS).axes
    assert {axes.get_title("left"): lines(axes) for axes in panels} == {
        "loss, train": {"small": [2.0, 0.5, 0.01]},
        "loss, validation": {"small": [2.0, 1.5, 1.0], "large": [1.0, 0.9, 0.8]},
        "accuracy, validation": {"small": [0.2, 0.5, 0.6], "large": [0.5, 0.6, 0.7]},
    }
    assert [axes.get_yscale() for axes in panels] == ["log", "linear", "linear"]


def test_a_run_has_one_color_in_all_panels():
    reverse = {name: RUNS[name] for name in ("large", "small")}
    colors = {
        (line.get_label(), line.get_color())
        for axes in plots.compared_curves(reverse).axes
        for line in axes.lines
    }
    assert len(colors) == 2


def test_a_metric_that_no_run_has_is_refused():
    with pytest.raises(UsageError, match="no run has recorded any of perplexity"):
        plots.compared_curves(RUNS, ["perplexity"])


def test_a_reliability_diagram_has_a_point_a_bin_with_answers():
    confidence = np.asarray([np.nan, 0.5, 0.9])
    accuracy = np.asarray([np.nan, 0.25, 1.0])
    measured = {"one": (confidence, accuracy, np.asarray([0, 4, 12]))}
    reliable, shares = plots.reliability_diagram(measured).axes
    diagonal, points = reliable.lines
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(points.get_xydata(), [[0.5, 0.25], [0.9, 1.0]])
    (steps,) = shares.lines
    np.testing.assert_allclose(steps.get_xdata(), [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(steps.get_ydata(), [0, 0.25, 0.75, 0.75])
    assert steps.get_color() == points.get_color() != diagonal.get_color()
