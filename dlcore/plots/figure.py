"""What every figure shares: its making, its writing, its axes and its colors."""

import math
import os
import pathlib
from typing import TYPE_CHECKING, Literal

from dlcore import paths

# Matplotlib takes half a second to import, and most runs of a program draw nothing.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito (2008); black and their yellow, which is too light for a line, come last.
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#F0E442",
)


def save(figure: "Figure", path: pathlib.Path) -> None:
    """Writes a figure, in the format of the path's suffix, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with paths.writing(path):
            figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=150)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def new_figure(width: float, height: float) -> "Figure":
    """A figure of that size, in inches, outside pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def literal(text: str) -> str:
    """A text that Matplotlib writes as it is: between two dollar signs it would set mathematics."""
    return text.replace("$", r"\$")


def plain_axes(axes: "Axes") -> None:
    """Makes all but the curves of axes inconspicuous."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.6")
    axes.tick_params(which="both", color="0.6", labelcolor="0.35", labelsize="small")
    axes.grid(color="0.9", linewidth=0.6)


def logarithmic(axes: "Axes", which: Literal["x", "y"]) -> None:
    """Makes the x or the y axis of drawn axes logarithmic.

    Its tick labels are plain numbers where these are not too long.
    """
    from matplotlib import ticker

    axis: Axis = {"x": axes.xaxis, "y": axes.yaxis}[which]
    axes.set(**{f"{which}scale": "log"})
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    # Over few decades, powers of ten alone would leave one or two numbers on the axis.
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    if decades < 6:
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(ticker.NullLocator())
