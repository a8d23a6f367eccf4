"""Discs in a plane: two numbers by position, a third by area."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlcore.plots.figure import PALETTE, logarithmic, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Of the largest disc, in square points.
_LARGEST = 1000.0
# The directions from a disc, in which its name may stand, the best first, with the name's anchor.
_DIRECTIONS = (
    *((1, 0, "left", "center"), (-1, 0, "right", "center")),
    *((0, 1, "center", "bottom"), (0, -1, "center", "top")),
    *((0.7, 0.7, "left", "bottom"), (0.7, -0.7, "left", "top")),
    *((-0.7, 0.7, "right", "bottom"), (-0.7, -0.7, "right", "top")),
)
# From the disc's rim, in points.
_DISTANCES = (2, 9, 18, 30)


@dataclasses.dataclass(frozen=True)
class Bubble:
    """A disc with a name.

    Attributes:
      x: where it is.
      y: where it is.
      size: what its area shows, above 0.
      label: its name.
      group: the discs of a group have one color.
    """

    x: float
    y: float
    size: float
    label: str
    group: str


def bubbles(
    points: Sequence[Bubble],
    title: str,
    x_label: str,
    y_label: str,
    sizes: Mapping[str, float],
    log_x: bool = False,
) -> "Figure":
    """Discs whose names stand beside them, where they hide as little as they can.

    Args:
      points: the discs.
      title: of the figure.
      x_label: of the x axis.
      y_label: of the y axis.
      sizes: discs of the legend, by what is written beside them.
      log_x: whether the x axis is logarithmic.
    """
    figure = new_figure(9.0, 6.2)
    axes = figure.add_subplot()
    scale = _LARGEST / max(point.size for point in points)
    groups = list(dict.fromkeys(point.group for point in points))
    # Small discs on top of large ones.
    for point in sorted(points, key=lambda point: -point.size):
        color = PALETTE[groups.index(point.group) % len(PALETTE)]
        area = scale * point.size
        axes.scatter(point.x, point.y, area, color, alpha=0.5, edgecolors="white", linewidths=0.8)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel(x_label, fontsize="small")
    axes.set_ylabel(y_label, fontsize="small")
    # Room for the discs at the rim and for their names.
    axes.margins(0.1)
    plain_axes(axes)
    axes.set_axisbelow(True)
    if log_x:
        logarithmic(axes, "x")
    for name, size in sizes.items():
        axes.scatter([], [], scale * size, "0.7", label=name)
    options = {"labelspacing": 1.6, "handletextpad": 1.6, "borderpad": 1.2, "fontsize": "small"}
    legend = axes.legend(loc="lower right", frameon=False, **options)
    figure.draw_without_rendering()
    _write_names(axes, points, scale, legend.get_window_extent())
    return figure


def _write_names(axes: "Axes", points: Sequence[Bubble], scale: float, legend: "Bbox") -> None:
    """Names each disc where its name covers least of other discs and names, within the axes."""
    from matplotlib.transforms import Bbox

    pixels = axes.figure.dpi / 72
    # Half of the width of a disc, in points: Matplotlib's areas are those of the square around it.
    radii = [(scale * point.size) ** 0.5 / 2 for point in points]
    centers = axes.transData.transform([(point.x, point.y) for point in points])
    taken = [
        Bbox.from_extents(*(center - pixels * radius), *(center + pixels * radius))
        for center, radius in zip(centers, radii, strict=True)
    ]
    taken.append(legend)
    inside = axes.get_window_extent()
    places = list(itertools.product(_DISTANCES, _DIRECTIONS))
    for point, radius in zip(points, radii, strict=True):
        names = [_name(axes, point, radius, *place) for place in places]
        boxes = [name.get_window_extent() for name in names]
        lost = [
            box.width * box.height
            - _common_area(box, inside)
            + sum(_common_area(box, other) for other in taken)
            for box in boxes
        ]
        best = lost.index(min(lost))
        taken.append(boxes[best])
        for name in names:
            name.remove()
        # A line to the disc where the name is not beside it. It comes last: an extent has it in it.
        line = {
            "arrowstyle": "-",
            "color": "0.6",
            "linewidth": 0.6,
            "shrinkA": 0,
            "shrinkB": radius,
        }
        far = places[best][0] > _DISTANCES[0]
        _name(axes, point, radius, *places[best], arrowprops=line if far else None)


def _name(
    axes: "Axes",
    point: Bubble,
    radius: float,
    distance: float,
    direction: tuple[float, float, str, str],
    arrowprops: Any = None,
) -> "Annotation":
    """A disc's name, at a distance from its rim in points."""
    right, up, horizontal, vertical = direction
    return axes.annotate(
        point.label,
        (point.x, point.y),
        (right * (radius + distance), up * (radius + distance)),
        textcoords="offset points",
        ha=horizontal,
        va=vertical,
        fontsize="x-small",
        arrowprops=arrowprops,
    )


def _common_area(one: "Bbox", other: "Bbox") -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
