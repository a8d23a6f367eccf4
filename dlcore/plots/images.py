"""Images and filters side by side."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore.errors import UsageError
from dlcore.plots.figure import literal, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def filters(kernel: np.ndarray) -> "Figure":
    """The filters of a convolution that sees an image.

    Those of a gray image are drawn around white for zero, on one scale; those of a color image as
    colors, stretched to the range of all.

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
    inches = min(max(8.0 / columns, 0.6), 1.6)
    # In units of a tile's width: the gap between tiles, and the line that a caption needs.
    gap, line = 0.08, 0.18 / inches if captions else 0.0
    grid = columns * (1 + gap) - gap, rows * (tall + line + gap) - gap
    figure = new_figure(inches * grid[0] + 0.3, inches * grid[1] + 0.3)
    axes = figure.add_subplot()
    for index, (tile, caption) in enumerate(zip(tiles, captions or [""] * count, strict=True)):
        left = index % columns * (1 + gap)
        bottom = -(index // columns) * (tall + line + gap) - tall
        extent = (left, left + 1, bottom, bottom + tall)
        image = tile[..., 0] if channels == 1 else tile
        axes.imshow(image, extent=extent, interpolation="nearest", **options)
        below = (left + 0.5, bottom - 0.04)
        axes.text(*below, literal(caption), ha="center", va="top", fontsize="small")
    axes.set(xlim=(0, grid[0]), ylim=(-grid[1], 0), aspect="equal")
    axes.set_axis_off()
    return figure, axes
