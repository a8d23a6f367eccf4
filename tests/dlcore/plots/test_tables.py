"""A table shows the numbers that it is given, and bars as long as they are; seen by eye, too."""

import itertools

import numpy as np

from dlcore import plots

GROUPS = {
    "weights": {"wide": np.array([12_000, 0]), "narrow": np.array([3_000, 6_000])},
    "time": {"wide": np.array([1, 2])},
}


def drawn():
    figure = plots.summed_table("layers", ["first", "second"], GROUPS)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    return axes


def test_it_has_titles_names_numbers_and_sums():
    axes = drawn()
    lines = {}
    for text in axes.texts:
        lines.setdefault(text.get_position()[1], []).append(text.get_text())
    assert list(lines.values()) == [
        ["first", "12,000", "3,000", "1"],
        ["second", "–", "6,000", "2"],
        ["sum", "12,000", "9,000", "3"],
        ["weights", "time"],
        ["wide", "narrow", "wide"],
    ]
    assert axes.get_title("left") == "layers"


def test_a_bar_is_as_long_as_its_number_in_parts_of_the_largest_of_its_group():
    lengths = [abs(bar.get_width()) for bar in drawn().patches]
    np.testing.assert_allclose(np.array(lengths) / max(lengths), [1, 0, 0.25, 0.5, 0.5, 1])


def test_numbers_do_not_run_into_each_other():
    boxes = {}
    for text in drawn().texts:
        box = text.get_window_extent()
        boxes.setdefault(round(box.y0 + box.y1), []).append(box)
    for line in boxes.values():
        ordered = sorted(line, key=lambda box: box.x0)
        for left, right in itertools.pairwise(ordered):
            assert left.x1 < right.x0
