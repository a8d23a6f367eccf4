"""The panels of the studies show the arrays they are given; how they look was judged by eye."""

import numpy as np
import pytest

from dlcore import plots

X = np.asarray([1.0, 10.0, 100.0])
GRID_X, GRID_Y = np.linspace(-2, 2, 9), np.linspace(-1, 1, 5)
BOWL = GRID_X**2 + 10 * GRID_Y[:, None] ** 2


def test_each_panel_has_its_lines_its_labels_and_its_scales():
    panels = [
        plots.Panel("error", [plots.Line(X, 1 / X, "gradient descent")], "step", "loss", True),
        plots.Panel("rate", [plots.Line(X, X), plots.Line(X, 2 * X, style="points")], log_y=True),
    ]
    first, second = plots.line_panels(panels).axes
    assert (first.get_title("left"), first.get_xlabel(), first.get_ylabel()) == (
        "error",
        "step",
        "loss",
    )
    assert (first.get_xscale(), first.get_yscale()) == ("log", "linear")
    assert (second.get_xscale(), second.get_yscale()) == ("linear", "log")
    np.testing.assert_array_equal(first.lines[0].get_xydata(), np.stack([X, 1 / X], 1))
    assert [line.get_linestyle() for line in second.lines] == ["-", "None"]
    assert second.lines[0].get_color() != second.lines[1].get_color()


def test_one_legend_names_each_label_of_all_panels_once():
    panels = [
        plots.Panel(title, [plots.Line(X, X, "momentum"), plots.Line(X, X)]) for title in "ab"
    ]
    (legend,) = plots.line_panels(panels).legends
    assert [text.get_text() for text in legend.get_texts()] == ["momentum"]
    assert plots.line_panels([plots.Panel("", [plots.Line(X, X)])]).legends == []


def test_panels_with_labels_of_their_own_have_legends_of_their_own():
    panels = [
        plots.Panel(title, [plots.Line(X, X, f"{title} first"), plots.Line(X, -X, "second")])
        for title in "ab"
    ]
    figure = plots.line_panels(panels)
    assert figure.legends == []
    for axes, title in zip(figure.axes, "ab", strict=True):
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == [f"{title} first", "second"]
        assert axes.get_title("left") == title


def test_a_legend_of_a_panel_hides_no_line():
    lines = [plots.Line(X, X + row, f"line {row}") for row in range(7)]
    panels = [plots.Panel("many", lines), plots.Panel("none", [plots.Line(X, X)])]
    figure = plots.line_panels(panels)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    legend = axes.get_legend().get_window_extent()
    assert legend.y0 >= axes.get_window_extent().y1
    assert axes._left_title.get_window_extent().y0 >= legend.y1


def test_no_two_of_ten_lines_look_alike():
    lines = [plots.Line(X, X) for _ in range(10)]
    (axes,) = plots.line_panels([plots.Panel("", lines)]).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 10


def test_steps_and_layers_have_no_ticks_between_whole_numbers():
    x = np.arange(1, 5)
    whole, other = plots.line_panels(
        [plots.Panel("", [plots.Line(x, x)]), plots.Panel("", [plots.Line(x / 2, x)])]
    ).axes
    assert (whole.get_xticks() % 1 == 0).all()
    assert (other.get_xticks() % 1 != 0).any()


def test_ten_clouds_of_points_are_told_apart():
    lines = [plots.Line(X, X + row, style="points") for row in range(10)]
    (axes,) = plots.line_panels([plots.Panel("many", lines)]).axes
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 10


def test_a_line_keeps_the_color_it_asks_for():
    lines = [plots.Line(X, X, color=2), plots.Line(X, X), plots.Line(X, X)]
    colors = [
        line.get_color() for line in plots.line_panels([plots.Panel("", lines)]).axes[0].lines
    ]
    assert colors[0] == colors[2] != colors[1]


@pytest.mark.parametrize("log", [False, True])
def test_contour_lines_pass_where_the_function_has_their_level(log):
    values = BOWL + 1
    (axes,) = plots.contour_panels([plots.Contour("", GRID_X, GRID_Y, values, log=log)]).axes
    (contours,) = axes.collections
    levels = contours.levels
    assert (levels[0], levels[-1]) == pytest.approx((values.min(), values.max()))
    steps = levels[1:] / levels[:-1] if log else np.diff(levels)
    np.testing.assert_allclose(steps, steps[0])


def test_a_path_that_runs_away_leaves_the_landscape_as_it_is():
    path = plots.Line(np.asarray([0.0, 1e6]), np.asarray([0.0, 1e6]), "too large a rate")
    contour = plots.Contour("", GRID_X, GRID_Y, BOWL, [path])
    (axes,) = plots.contour_panels([contour]).axes
    assert axes.get_xlim() == (-2, 2)
    assert axes.get_ylim() == (-1, 1)


def test_regions_are_filled_with_the_color_of_their_value():
    regions = np.sign(BOWL - 1)
    (axes,) = plots.contour_panels([plots.Contour("", GRID_X, GRID_Y, regions, filled=True)]).axes
    (mesh,) = axes.collections
    np.testing.assert_array_equal(mesh.get_array(), regions)
    colors = mesh.to_rgba(np.asarray([-1.0, 1.0]))
    assert not np.allclose(colors[0], colors[1])


def test_a_surface_has_the_height_of_the_function():
    (axes,) = plots.surface(GRID_X, GRID_Y, BOWL, "bowl", "first", "second", "loss").axes
    low, high = axes.get_zlim()
    assert low <= BOWL.min() < BOWL.max() <= high
    assert [axes.get_xlabel(), axes.get_ylabel(), axes.get_zlabel()] == ["first", "second", "loss"]


def test_histograms_have_a_row_a_setting_and_leave_out_what_is_not_finite():
    rng = np.random.default_rng(0)
    rows = {
        "xavier": [rng.normal(size=100), np.asarray([np.nan, *rng.normal(size=99)])],
        "he": [np.zeros(10), rng.normal(size=(5, 5))],
    }
    figure = plots.histograms(rows, ["layer 1", "layer 2"])
    assert [axes.get_title() for axes in figure.axes] == ["layer 1", "layer 2", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["xavier", "", "he", ""]
    for axes in figure.axes:
        (shape,) = axes.patches
        densities, edges, _ = shape.get_data()
        assert (densities * np.diff(edges)).sum() == pytest.approx(1)


def test_histograms_share_a_scale_along_rows_or_columns():
    rows = {"small": [np.asarray([-1.0, 0.5]), np.asarray([2.0])], "large": [X, 5 * X]}
    limits = {}
    for scale_by in ("row", "column"):
        figure = plots.histograms(rows, ["weights", "code"], scale_by)
        limits[scale_by] = [(axes.get_xticks()[0], axes.get_xticks()[-1]) for axes in figure.axes]
    # Around zero where something is below it, else from zero.
    assert limits["row"] == [(-2, 2), (-2, 2), (0, 500), (0, 500)]
    assert limits["column"] == [(-100, 100), (0, 500), (-100, 100), (0, 500)]
