"""The figures of the studies: lines, contours, surfaces and histograms in panels."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dlcore.plots.figure import PALETTE, logarithmic, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Yellow is too light for a line.
_COLORS = PALETTE[:-1]
# Of a panel, in inches.
_WIDTH = 3.8
_STYLES: dict[str, dict[str, Any]] = {
    "line": {"linestyle": "-"},
    "dashed": {"linestyle": "--"},
    "points": {"linestyle": "", "marker": "o"},
    "path": {"linestyle": "-", "marker": "o"},
    "steps": {"linestyle": "-", "drawstyle": "steps-post"},
}
# What tells the second line of a color from the first.
_AGAIN = {
    **_STYLES,
    "line": _STYLES["dashed"],
    "points": {"linestyle": "", "marker": "x"},
}


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve, or a cloud of points.

    Attributes:
      x: `[points]`.
      y: `[points]`.
      label: for the legend; empty for none.
      style: "line", "dashed", "points", "path" (points that are joined) or "steps".
      color: index in the palette; the line's own number in its panel by default. Where the
        palette ends it begins again, dashed; points are then crosses.
    """

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    style: str = "line"
    color: int | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """Axes with curves.

    Attributes:
      title: of the panel.
      lines: the curves.
      x_label: of the x axis.
      y_label: of the y axis.
      log_x: whether the x axis is logarithmic.
      log_y: whether the y axis is logarithmic.
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
      lines: drawn on top.
      x_label: of the x axis.
      y_label: of the y axis.
      log: levels in geometric order, for values above 0 that range over orders of magnitude.
      filled: each value in its own color, for regions, instead of contour lines.
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
    """Panels of curves, with one legend for all, or one for each panel where their labels differ.

    Args:
      panels: to draw.
      columns: panels in a row; about as many as rows by default.
    """
    figure, axes = _panels(panels, columns, height=3.0)
    for own, panel in zip(axes, panels, strict=True):
        _draw_lines(own, panel.lines)
        plain_axes(own)
        if panel.log_x:
            logarithmic(own, "x")
        elif _whole(panel.lines):
            own.locator_params(axis="x", integer=True)
        if panel.log_y:
            logarithmic(own, "y")
    _legends(figure)
    return figure


def contour_panels(contours: Sequence[Contour], columns: int | None = None) -> "Figure":
    """Functions of two numbers, one in each panel, drawn to scale.

    What is drawn on top has one legend for all panels, or one for each where their labels differ.

    Args:
      contours: to draw.
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
                vmin=-3 * limit,
                vmax=3 * limit,
            )
        else:
            levels = _levels(contour.values, contour.log)
            drawn = own.contour(
                contour.x, contour.y, contour.values, levels, cmap="viridis", linewidths=0.8
            )
            own.clabel(drawn, levels[2::5].tolist(), fontsize="x-small", fmt="%.2g")
        _draw_lines(own, contour.lines)
        plain_axes(own)
        own.grid(visible=False)
        # A path that runs away must not shrink the landscape to a dot.
        own.set(xlim=(contour.x[0], contour.x[-1]), ylim=(contour.y[0], contour.y[-1]))
        own.set_aspect("equal")
    _legends(figure)
    return figure


def surface(
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    title: str,
    x_label: str = "",
    y_label: str = "",
    z_label: str = "",
) -> "Figure":
    """A function of two numbers as a surface, seen from above at an angle.

    Args:
      x: `[columns]`.
      y: `[rows]`.
      values: `[rows, columns]`.
      title: of the figure.
      x_label: of the x axis.
      y_label: of the y axis.
      z_label: of the height.
    """
    figure = new_figure(7.0, 5.6)
    axes = figure.add_subplot(projection="3d")
    grid_x, grid_y = np.meshgrid(x, y)
    axes.plot_surface(grid_x, grid_y, values, cmap="viridis", linewidth=0, antialiased=True)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel(x_label, fontsize="small", labelpad=8)
    axes.set_ylabel(y_label, fontsize="small", labelpad=8)
    axes.set_zlabel(z_label, fontsize="small")
    axes.locator_params(nbins=5)
    # Room for the labels, which the layout leaves out of account.
    axes.set_box_aspect(None, zoom=0.9)
    axes.tick_params(labelsize="small", labelcolor="0.35")
    return figure


def histograms(
    rows: Mapping[str, Sequence[np.ndarray]],
    column_titles: Sequence[str],
    scale_by: Literal["row", "column"] = "row",
) -> "Figure":
    """Distributions in a grid: a row for each setting, a column for each layer or quantity.

    Args:
      rows: for each setting the numbers of every column, of any shape.
      column_titles: a short title for each column.
      scale_by: the axes of a row have one scale, so that what shrinks or grows from layer to layer
        shows; or those of a column.
    """
    columns = len(column_titles)
    figure = new_figure(0.8 + 1.35 * columns, 0.5 + 1.3 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    table = [
        [np.ravel(values)[np.isfinite(np.ravel(values))] for values in row] for row in rows.values()
    ]
    groups = zip(grid, table, strict=True)
    if scale_by == "column":
        groups = zip(grid.T, zip(*table, strict=True), strict=True)
    for axes, numbers in groups:
        _draw_histograms(axes, numbers)
    for axes, title in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(title, fontsize="small")
    for axes, title in zip(grid[0], column_titles, strict=True):
        axes.set_title(title, fontsize="medium")
    return figure


def _draw_histograms(grid: Sequence["Axes"], numbers: Sequence[np.ndarray]) -> None:
    """Histograms on one scale: around zero, or from zero where no number is below it."""
    limit = max(float(np.abs(values).max(initial=0.0)) for values in numbers) or 1.0
    low = -limit if min(values.min(initial=0.0) for values in numbers) < 0 else 0.0
    for axes, values in zip(grid, numbers, strict=True):
        # One shape: sixty bars for each of many panels take seconds to draw.
        densities, edges = np.histogram(values, 60, (low, limit), density=True)
        axes.stairs(densities, edges, fill=True, color=PALETTE[0])
        plain_axes(axes)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
        ticks = sorted({low, 0.0, limit})
        axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])


def _panels(
    panels: Sequence[Panel] | Sequence[Contour], columns: int | None, height: float
) -> tuple["Figure", list["Axes"]]:
    """Empty axes with titles and labels."""
    columns = columns or math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    # One by itself may be larger.
    scale = 1.4 if len(panels) == 1 else 1.0
    figure = new_figure(0.6 + _WIDTH * scale * columns, 0.9 + height * scale * rows)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(len(panels))]
    for index, own in enumerate(axes):
        panel = panels[index]
        own.set_title(panel.title, loc="left", fontsize="medium")
        own.set_xlabel(panel.x_label, fontsize="small")
        own.set_ylabel(panel.y_label, fontsize="small")
    return figure, axes


def _draw_lines(axes: "Axes", lines: Sequence[Line]) -> None:
    for number, line in enumerate(lines):
        again, color = divmod(number if line.color is None else line.color, len(_COLORS))
        # Many points would run together.
        size = min(max(250 / max(np.size(line.x), 1), 1.5), 4)
        axes.plot(
            line.x,
            line.y,
            color=_COLORS[color],
            label=line.label or "_",
            lw=0.4 * size if line.style == "path" else 1.5,
            markersize=size,
            **(_AGAIN if again else _STYLES)[line.style],
        )


def _whole(lines: Sequence[Line]) -> bool:
    """Whether every x is a whole number, so that ticks between them would mean nothing."""
    return all(np.array_equal(line.x, np.round(line.x)) for line in lines)


def _levels(values: np.ndarray, log: bool) -> np.ndarray:
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    if not log:
        return np.linspace(low, high, 20)
    return np.geomspace(max(low, high * 1e-6), high, 20)


def _legends(figure: "Figure") -> None:
    """One legend above the panels where all have the same labels, else one in each."""
    legends = [
        {
            str(line.get_label()): line
            for line in axes.lines
            if not str(line.get_label()).startswith("_")
        }
        for axes in figure.axes
    ]
    labeled = legends[0]
    if any(own.keys() != labeled.keys() for own in legends):
        for axes, own in zip(figure.axes, legends, strict=True):
            if own:
                _legend_above(axes, own)
    elif labeled:
        columns = _legend_columns(labeled, figure.get_figwidth())
        figure.legend(
            labeled.values(), labeled, loc="outside upper center", ncols=columns, frameon=False
        )


def _legend_above(axes: "Axes", labeled: Mapping[str, Any]) -> None:
    """A legend between a panel and its title, where it hides nothing."""
    # Its letters are small: 0.83 of the medium size.
    columns = _legend_columns(labeled, _WIDTH / 0.83)
    axes.legend(
        labeled.values(),
        labeled,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        fontsize="small",
        frameon=False,
        borderpad=0.2,
        borderaxespad=0,
    )
    rows = math.ceil(len(labeled) / columns)
    axes.set_title(axes.get_title("left"), loc="left", fontsize="medium", pad=8 + 13 * rows)


def _legend_columns(labels: Iterable[str], width: float) -> int:
    """As many as fit: about 0.7 inches for a line and its margins, 0.07 for a letter."""
    labels = list(labels)
    return max(1, min(len(labels), int(width // (0.7 + 0.07 * max(map(len, labels))))))
