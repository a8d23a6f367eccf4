"""Every figure of the project, drawn from arrays.

A function returns a Matplotlib `Figure` that belongs to nobody (pyplot's global state is never
touched), so it may be drawn anywhere: in a training, in a notebook, in a thread. The lines' colours
are those of Okabe and Ito (2008), which people with any colour vision tell apart.
"""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore.errors import UsageError

# Matplotlib takes half a second to import, and most runs of a program draw nothing.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_SPLITS = {"train": _BLUE, "validation": _ORANGE, "test": _GREEN}
# Falls by orders of magnitude in a training.
_LOGARITHMIC = ("loss", "norm", "perplexity")


def save(figure: "Figure", path: pathlib.Path) -> None:
    """Writes a figure, in the format of the path's suffix, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=150)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def learning_curves(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """Every metric over the epochs, a panel each, with a line for each split.

    Args:
      records: the lines of `metrics.jsonl`: "epoch", "split" and numbers by name; a None is a gap.

    Raises:
      UsageError: there is no record.
    """
    evaluated = {name for record in records if record["split"] != "train" for name in record}
    names = {name for record in records for name in record} - {"step", "epoch", "split"}
    if not names:
        raise UsageError("there is no record to draw learning curves from")
    columns = math.ceil(math.sqrt(len(names)))
    rows = math.ceil(len(names) / columns)
    figure = _figure(0.6 + 3.6 * columns, 0.9 + 2.4 * rows)
    # What is learnt comes first, what only the training records (rates, norms) last.
    ordered = sorted(names, key=lambda name: (name not in evaluated, name != "loss", name))
    for panel, name in enumerate(ordered, start=1):
        axes = figure.add_subplot(rows, columns, panel)
        axes.set_title(name.replace("_", " "), loc="left", fontsize="medium")
        _draw_curves(axes, name, [record for record in records if name in record])
    figure.supxlabel("epoch", fontsize="medium")
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    options = {"ncols": len(lines), "frameon": False}
    figure.legend(lines.values(), lines, loc="outside upper right", **options)
    return figure


def _draw_curves(axes: "Axes", name: str, records: Sequence[Mapping[str, Any]]) -> None:
    """One metric of each split that has it."""
    for split, colour in _SPLITS.items():
        own = [record for record in records if record["split"] == split]
        if own:
            epochs = [record["epoch"] for record in own]
            values = [math.nan if record[name] is None else record[name] for record in own]
            marker = "o" if split != "train" or len(own) == 1 else ""
            axes.plot(
                epochs, values, color=colour, label=split, marker=marker, markersize=3, lw=1.5
            )
    _plain_axes(axes)
    axes.locator_params(axis="x", steps=[1, 2, 5, 10])
    values = [record[name] for record in records if record[name] is not None]
    if name.endswith(_LOGARITHMIC) and values and max(values) > 10 * min(values) > 0:
        _logarithmic(axes, decades=math.log10(max(values) / min(values)))


def _logarithmic(axes: "Axes", decades: float) -> None:
    from matplotlib import ticker

    axes.set_yscale("log")
    # Over few decades, powers of ten alone would leave one or two numbers on the axis.
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> "Figure":
    """How often examples of each class were taken for each class.

    What is right is blue, what is wrong is orange, each by its share of the row. The orange is
    scaled to the largest share of errors, so that they show in a good classifier, too.

    Args:
      counts: `[classes, classes]`, row the true class, column the predicted one.
      class_names: a name for each.
    """
    counts = np.asarray(counts)
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.eye(classes, dtype=bool)
    largest_error = max(shares[~right].max(initial=0.0), 1e-12)
    figure = _figure(*(max(4.0, min(1.8 + 0.42 * classes, 14.0)),) * 2)
    axes = figure.add_subplot()
    for cells, colours, darkest in ((right, "Blues", 1.3), (~right, "Oranges", largest_error)):
        shown = np.ma.masked_where(~cells | (counts == 0), shares)
        axes.imshow(shown, cmap=colours, vmin=0, vmax=darkest)
        if classes > 30:
            continue
        for row, column in zip(*np.nonzero(cells & (counts > 0)), strict=True):
            colour = "white" if shares[row, column] > 0.55 * darkest else "black"
            text = f"{counts[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    every = math.ceil(classes / 40)
    labels = list(class_names)[::every]
    upright = max(map(len, labels)) <= 3
    axes.set_xticks(range(0, classes, every), labels, rotation=0 if upright else 90)
    axes.set_yticks(range(0, classes, every), labels)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    correct, total = np.trace(counts), counts.sum()
    title = f"{correct:.0f} of {total:.0f} right ({correct / max(total, 1):.2%})"
    axes.set_title(title, loc="left", fontsize="medium")
    return figure


def filters(kernel: np.ndarray) -> "Figure":
    """The filters of a convolution that sees an image.

    Those of a grey image are drawn around white for zero, on one scale; those of a colour image as
    colours, stretched to the range of all.

    Args:
      kernel: `[height, width, channels, features]` with 1 or 3 channels.

    Raises:
      UsageError: another shape.
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.ndim != 4 or kernel.shape[2] not in (1, 3):
        raise UsageError(
            f"a kernel of shape {kernel.shape} cannot be drawn: it must be "
            "[height, width, 1 or 3, features]"
        )
    tiles = np.moveaxis(kernel, -1, 0)
    if kernel.shape[2] == 3:
        low, high = kernel.min(), kernel.max()
        tiles = (tiles - low) / max(high - low, np.float32(1e-12))
        figure, _ = _tiles(tiles, None, None, {})
        return figure
    limit = max(float(np.abs(kernel).max()), 1e-12)
    options = {"cmap": "RdBu", "vmin": -limit, "vmax": limit}
    figure, axes = _tiles(tiles, None, None, options)
    bar = figure.colorbar(axes.images[0], ax=axes, shrink=0.8, aspect=25)
    bar.outline.set_visible(False)
    bar.ax.set_title("weight", fontsize="small", loc="left")
    return figure


def image_grid(
    images: np.ndarray,
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> "Figure":
    """Images in rows: samples of a model, or the examples that it gets most wrong.

    Args:
      images: `[count, height, width]` or `[count, height, width, channels]`, 1 or 3 channels.
      captions: a short line for each.
      columns: images in a row; about as many as rows by default.
      value_range: the values of black and white; by default 0 and 255 for integers, 0 and 1 for
        floats.

    Raises:
      UsageError: there is no image.
    """
    images = np.asarray(images)
    if not len(images):
        raise UsageError("there is no image to draw")
    if images.ndim == 3:
        images = images[..., None]
    integers = np.issubdtype(images.dtype, np.integer)
    low, high = value_range or (0.0, 255.0 if integers else 1.0)
    scaled = np.clip((images.astype(np.float32) - low) / (high - low), 0, 1)
    figure, _ = _tiles(scaled, captions, columns, {"cmap": "gray", "vmin": 0, "vmax": 1})
    return figure


def _tiles(
    tiles: np.ndarray,
    captions: Sequence[str] | None,
    columns: int | None,
    options: Mapping[str, Any],
) -> tuple["Figure", "Axes"]:
    """Arrays `[count, height, width, channels]` side by side on one axes, captions below them."""
    count, height, width, channels = tiles.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    tall = height / width
    # In units of a tile's width: the gap between tiles, and the line that a caption needs.
    gap, line = 0.08, 0.24 if captions else 0.0
    inches = min(max(8.0 / columns, 0.6), 1.2)
    grid = columns * (1 + gap) - gap, rows * (tall + line + gap) - gap
    figure = _figure(inches * grid[0] + 0.3, inches * grid[1] + 0.3)
    axes = figure.add_subplot()
    for index, (tile, caption) in enumerate(zip(tiles, captions or [""] * count, strict=True)):
        left = index % columns * (1 + gap)
        bottom = -(index // columns) * (tall + line + gap) - tall
        extent = (left, left + 1, bottom, bottom + tall)
        image = tile[..., 0] if channels == 1 else tile
        axes.imshow(image, extent=extent, interpolation="nearest", **options)
        axes.text(left + 0.5, bottom - 0.04, caption, ha="center", va="top", fontsize="small")
    axes.set(xlim=(0, grid[0]), ylim=(-grid[1], 0), aspect="equal")
    axes.set_axis_off()
    return figure, axes


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain_axes(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.6")
    axes.tick_params(color="0.6", labelcolor="0.35", labelsize="small")
    axes.grid(color="0.9", linewidth=0.6)
