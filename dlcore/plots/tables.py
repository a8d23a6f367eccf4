"""Tables whose numbers are also bars."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlcore.plots.figure import PALETTE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of a cell, in inches, and of the first column.
_WIDTH, _HEIGHT, _FIRST = 1.4, 0.3, 2.0


def summed_table(
    title: str, rows: Sequence[str], groups: Mapping[str, Mapping[str, np.ndarray]]
) -> "Figure":
    """Whole numbers in columns, with the sum of each below it.

    Columns stand in groups. Behind a number is a bar, in parts of the largest of its group; a zero
    is a dash.

    Args:
      title: of the figure.
      rows: their names.
      groups: the columns of each group by their titles, `[rows]`.
    """
    columns = [(group, *column) for group, own in groups.items() for column in own.items()]
    width = _FIRST + _WIDTH * len(columns)
    figure = new_figure(width + 0.2, _HEIGHT * (len(rows) + 4))
    axes = figure.add_subplot()
    # Inches to the right and lines down, from the upper left corner of the numbers.
    axes.set(xlim=(0, width), ylim=(len(rows) + 1, -2))
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize="medium")
    for line, name in enumerate((*rows, "sum")):
        axes.text(0, line + 0.5, name, va="center", fontsize="small")
    # Rules below the titles and above the sums.
    axes.hlines([0, len(rows)], 0, width, color="0.6", linewidth=0.8)
    left, shown = _FIRST, ""
    for group, name, values in columns:
        color = PALETTE[list(groups).index(group)]
        if group != shown:
            axes.text(left + 0.1, -1.5, group, va="center", fontsize="small", color=color)
            shown = group
        right = left + _WIDTH - 0.1
        axes.text(right, -0.5, name, va="center", ha="right", fontsize="small", color="0.35")
        largest = max(max(map(np.max, groups[group].values())), 1)
        bars = (_WIDTH - 0.2) * np.asarray(values) / largest
        lines = np.arange(len(rows)) + 0.5
        axes.barh(lines, -bars, 0.8, left=right, color=color, alpha=0.25)
        for line, number in enumerate((*values, np.sum(values))):
            text = f"{number:,}" if number else "–"
            axes.text(right - 0.05, line + 0.5, text, va="center", ha="right", fontsize="small")
        left += _WIDTH
    return figure
