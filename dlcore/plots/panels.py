"""The figures of the studies: lines, contours, surfaces and histograms in panels."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore.plots.figure import PALETTE, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES: dict[str, dict[str, Any]] = {
    "line": {"linestyle": "-"},
    "dashed": {"linestyle": "--"},
    "points": {"linestyle": "", "marker": "o"},
    "path": {"linestyle": "-", "marker": "o"},
    "steps": {"linestyle": "-", "drawstyle": "steps-post"},
}


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve, or a cloud of points.

    Attributes:
      x: `[points]`.
      y: `[points]`.
      label: for the legend; empty for none.
      style: "line", "dashed", "points", "path" (points that are joined) or "steps".
      colour: index in the palette; the line's own number in its panel by default.
    """

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    style: str = "line"
    colour: int | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """Axes with curves.

    Attributes:
      title: of the panel.
      lines: what is drawn.
      x_label: what the abscissa is.
      y_label: what the ordinate is.
      log_x: a logarithmic abscissa.
      log_y: a logarithmic ordinate.
    """

    title: str
    lines: Sequence[Line]
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False


@dataclasses.dataclass(frozen=True)
class Contour:
    """A function of two numbers as contour lines, with curves or points on top.

    Attributes:
      title: of the panel.
      x: `[columns]`, ascending.
      y: `[rows]`, ascending.
      values: `[rows, columns]`.
      lines: what is drawn on top.
      x_label: what the abscissa is.
      y_label: what the ordinate is.
      log: levels in geometric order, for values above 0 that range over orders of magnitude.
      filled: each value in its own colour, for regions, instead of contour lines.
    """

    title: str
    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    lines: Sequence[Line] = ()
    x_label: str = ""
    y_label: str = ""
    log: bool = False
    filled: bool = False


def line_panels(panels: Sequence[Panel], columns: int | None = None) -> "Figure":
    """Curves, a panel each, with one legend for all.

    Args:
      panels: what is drawn.
      columns: panels in a row; about as many as rows by default.
    """
    figure, axes = _panels(panels, columns, height=2.8)
    for own, panel in zip(axes, panels, strict=True):
        _draw_lines(own, panel.lines)
        plain_axes(own)
        if panel.log_x:
            own.set_xscale("log")
        if panel.log_y:
            own.set_yscale("log")
    _legend(figure)
    return figure


def contour_panels(contours: Sequence[Contour], columns: int | None = None) -> "Figure":
    """Functions of two numbers, a panel each, with one legend for what is drawn on top.

    Args:
      contours: what is drawn.
      columns: panels in a row; about as many as rows by default.
    """
    figure, axes = _panels(contours, columns, height=3.4)
    for own, contour in zip(axes, contours, strict=True):
        if contour.filled:
            limit = float(np.abs(contour.values).max()) or 1.0
            own.pcolormesh(
                contour.x,
                contour.y,
                contour.values,
                shading="nearest",
                cmap="RdBu_r",
                # Pale, so that what is drawn on top shows.
                vmin=-1.6 * limit,
                vmax=1.6 * limit,
            )
        else:
            levels = _levels(contour.values, contour.log)
            own.contour(
                contour.x, contour.y, contour.values, levels, cmap="viridis", linewidths=0.8
            )
        _draw_lines(own, contour.lines)
        plain_axes(own)
        own.grid(visible=False)
        # A path that runs away must not shrink the landscape to a dot.
        own.set(xlim=(contour.x[0], contour.x[-1]), ylim=(contour.y[0], contour.y[-1]))
    _legend(figure)
    return figure


def surface(
    x: np.ndarray, y: np.ndarray, values: np.ndarray, title: str, z_label: str = ""
) -> "Figure":
    """A function of two numbers, seen from above and aside.

    Args:
      x: `[columns]`.
      y: `[rows]`.
      values: `[rows, columns]`.
      title: of the figure.
      z_label: what the height is.
    """
    figure = new_figure(6.0, 4.8)
    axes = figure.add_subplot(projection="3d")
    grid_x, grid_y = np.meshgrid(x, y)
    axes.plot_surface(grid_x, grid_y, values, cmap="viridis", linewidth=0, antialiased=True)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_zlabel(z_label)
    axes.tick_params(labelsize="small", labelcolor="0.35")
    return figure


def histograms(rows: Mapping[str, Sequence[np.ndarray]], column_titles: Sequence[str]) -> "Figure":
    """Distributions in a grid: a row for each setting, a column for each layer.

    A row has one scale around zero, so that what shrinks or grows from layer to layer shows.

    Args:
      rows: for each setting the numbers of every column, of any shape.
      column_titles: a short title for each column.
    """
    columns = len(column_titles)
    figure = new_figure(0.8 + 1.35 * columns, 0.5 + 1.3 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for own, (title, numbers) in zip(grid, rows.items(), strict=True):
        finite = [np.ravel(values)[np.isfinite(np.ravel(values))] for values in numbers]
        limit = max(float(np.abs(values).max(initial=0.0)) for values in finite) or 1.0
        bins = np.linspace(-limit, limit, 61)
        for axes, values in zip(own, finite, strict=True):
            axes.hist(values, bins=bins, color=PALETTE[0], density=True)
            plain_axes(axes)
            axes.grid(visible=False)
            axes.spines["left"].set_visible(False)
            axes.set_yticks([])
            axes.set_xticks([-limit, 0, limit], [f"{-limit:.2g}", "0", f"{limit:.2g}"])
        own[0].set_ylabel(title, fontsize="small")
    for axes, title in zip(grid[0], column_titles, strict=True):
        axes.set_title(title, fontsize="medium")
    return figure


def _panels(
    panels: Sequence[Panel] | Sequence[Contour], columns: int | None, height: float
) -> tuple["Figure", list["Axes"]]:
    """Empty axes with titles and labels."""
    columns = columns or math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(max(0.6 + 3.8 * columns, 5.0), 0.9 + height * rows)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(len(panels))]
    for index, own in enumerate(axes):
        panel = panels[index]
        own.set_title(panel.title, loc="left", fontsize="medium")
        own.set_xlabel(panel.x_label, fontsize="small")
        own.set_ylabel(panel.y_label, fontsize="small")
    return figure, axes


def _draw_lines(axes: "Axes", lines: Sequence[Line]) -> None:
    for number, line in enumerate(lines):
        axes.plot(
            line.x,
            line.y,
            color=PALETTE[(number if line.colour is None else line.colour) % len(PALETTE)],
            label=line.label or "_",
            lw=1.5,
            markersize=3,
            **_STYLES[line.style],
        )


def _levels(values: np.ndarray, log: bool) -> np.ndarray:
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    if not log:
        return np.linspace(low, high, 20)
    return np.geomspace(max(low, high * 1e-6), high, 20)


def _legend(figure: "Figure") -> None:
    """One legend above the panels, each label once."""
    lines = itertools.chain.from_iterable(axes.lines for axes in figure.axes)
    labelled = {str(line.get_label()): line for line in lines}
    labelled = {label: line for label, line in labelled.items() if not label.startswith("_")}
    if labelled:
        # About 18 letters to an inch of the figure's width.
        width = max(map(len, labelled)) + 6
        columns = max(1, min(len(labelled), int(figure.get_figwidth() * 14) // width))
        figure.legend(
            labelled.values(), labelled, loc="outside upper center", ncols=columns, frameon=False
        )
