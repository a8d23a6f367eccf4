"""Discs stand where they should, are as large as they should, and their names hide nothing."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from dlcore import plots

POINTS = [
    plots.Bubble(1.0, 60.0, 4.0, "small", "one"),
    plots.Bubble(10.0, 70.0, 100.0, "large", "two"),
    # So near to each other that no two of their names fit on the same side.
    plots.Bubble(10.0, 70.5, 9.0, "first", "one"),
    plots.Bubble(10.2, 70.4, 9.0, "second", "one"),
    plots.Bubble(9.9, 70.3, 9.0, "third", "one"),
]


@pytest.fixture(scope="module")
def axes():
    figure = plots.bubbles(POINTS, "title", "work", "score", {"25 parameters": 25.0}, log_x=True)
    figure.draw_without_rendering()
    return figure.axes[0]


def test_areas_are_proportional_and_small_discs_lie_on_top(axes):
    drawn = [(*disc.get_offsets()[0], disc.get_sizes()[0]) for disc in axes.collections[:-1]]
    drawn_sizes = np.asarray([area for *_, area in drawn])
    ordered = sorted(POINTS, key=lambda point: -point.size)
    assert [(x, y) for x, y, _ in drawn] == [(point.x, point.y) for point in ordered]
    shares = [point.size / 100.0 for point in ordered]
    np.testing.assert_allclose(drawn_sizes / drawn_sizes[0], shares)


def test_the_legend_s_disc_is_to_scale(axes):
    *_, of_legend = axes.collections
    assert of_legend.get_label() == "25 parameters"
    largest = axes.collections[0].get_sizes()[0]
    np.testing.assert_allclose(of_legend.get_sizes(), 0.25 * largest)


def test_a_group_has_one_color(axes):
    colors = {disc.get_sizes()[0]: tuple(disc.get_facecolor()[0]) for disc in axes.collections[:-1]}
    large, *small = (colors[size] for size in sorted(colors, reverse=True))
    assert len(set(small)) == 1
    assert large not in small


def test_every_disc_is_named_once_and_no_name_covers_another(axes):
    assert sorted(name.get_text() for name in axes.texts) == sorted(p.label for p in POINTS)
    # The extent of the letters, without the line to the disc.
    boxes = [Text.get_window_extent(name) for name in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_axes_are_labeled_and_scaled(axes):
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("work", "score")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
