"""The figures of a training: learning curves and the confusion matrix."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlcore.errors import UsageError
from dlcore.plots.figure import PALETTE, literal, logarithmic, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPLITS = dict(zip(("train", "validation", "test"), PALETTE, strict=False))
# Falls by orders of magnitude in a training.
_LOGARITHMIC = ("loss", "norm", "perplexity")
# Of a number: what sums in float32 may add to it.
_ROUNDING = 1e-5


def learning_curves(metrics: Mapping[str, Mapping[str, np.ndarray]]) -> "Figure":
    """Every metric over the epochs: a panel for each metric, a line for each split.

    Args:
      metrics: by split ("train", "validation", "test") and name, `[records]` each, "epoch" among
        them; NaN where a record has no such number, or one that was not finite. The line has a gap
        there.

    Raises:
      UsageError: there is no metric.
    """
    by_split = {split: set(own) - {"step", "epoch"} for split, own in metrics.items()}
    names = set().union(*by_split.values())
    if not names:
        raise UsageError("there is no metric to draw learning curves of")
    evaluated = set().union(*(own for split, own in by_split.items() if split != "train"))
    columns = math.ceil(math.sqrt(len(names)))
    rows = math.ceil(len(names) / columns)
    figure = new_figure(0.6 + 3.6 * columns, 0.9 + 2.4 * rows)
    # What is evaluated comes first, what only the training records (rates, norms) last.
    ordered = sorted(names, key=lambda name: (name not in evaluated, name != "loss", name))
    for panel, name in enumerate(ordered, start=1):
        axes = figure.add_subplot(rows, columns, panel)
        axes.set_title(name.replace("_", " "), loc="left", fontsize="medium")
        _draw_curves(axes, name, {split: own for split, own in metrics.items() if name in own})
    figure.supxlabel("epoch", fontsize="medium")
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    options = {"ncols": len(lines), "frameon": False}
    figure.legend(lines.values(), lines, loc="outside upper right", **options)
    return figure


def _draw_curves(axes: "Axes", name: str, metrics: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """One metric of each split."""
    for split, color in _SPLITS.items():
        if split in metrics:
            values = metrics[split][name]
            marker = "o" if split != "train" or _has_lone_points(values) else ""
            axes.plot(
                metrics[split]["epoch"],
                values,
                color=color,
                label=split,
                marker=marker,
                markersize=3,
                lw=1.5,
            )
    plain_axes(axes)
    axes.locator_params(axis="x", steps=[1, 2, 5, 10])
    _show_as_constant(axes)
    if falls_far(name, [own[name] for own in metrics.values()]):
        logarithmic(axes, "y")


def _show_as_constant(axes: "Axes") -> None:
    """Leaves room around numbers that differ by rounding only, as the means of a constant do."""
    low, high = axes.dataLim.intervaly
    if 0 < high - low < _ROUNDING * abs(high):
        axes.set_ylim(low - 0.1 * abs(high), high + 0.1 * abs(high))


def falls_far(name: str, values: Sequence[np.ndarray]) -> bool:
    """Whether a metric's numbers need a logarithmic axis."""
    drawn = np.concatenate(values)
    drawn = drawn[np.isfinite(drawn)]
    return bool(name.endswith(_LOGARITHMIC) and drawn.size and drawn.max() > 10 * drawn.min() > 0)


def _has_lone_points(values: np.ndarray) -> bool:
    """Whether a number has gaps on both sides, so that no line would show it."""
    there = np.pad(np.isfinite(values), 1)
    return bool((there[1:-1] & ~there[:-2] & ~there[2:]).any())


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> "Figure":
    """How often examples of each class were taken for each class.

    Correct answers are blue, wrong ones orange, each by its share of the row. The orange is scaled
    to the largest share of errors, so that they also show in a good classifier.

    Args:
      counts: `[classes, classes]`, row the true class, column the predicted one.
      class_names: a name for each.
    """
    counts = np.asarray(counts)
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.eye(classes, dtype=bool)
    largest_error = max(shares[~right].max(initial=0.0), 1e-12)
    figure = new_figure(*(max(4.0, min(1.8 + 0.42 * classes, 14.0)),) * 2)
    axes = figure.add_subplot()
    for cells, colors, darkest in ((right, "Blues", 1.3), (~right, "Oranges", largest_error)):
        shown = np.ma.masked_where(~cells | (counts == 0), shares)
        axes.imshow(shown, cmap=colors, vmin=0, vmax=darkest)
        if classes > 30:
            continue
        for row, column in zip(*np.nonzero(cells & (counts > 0)), strict=True):
            color = "white" if shares[row, column] > 0.55 * darkest else "black"
            text = f"{counts[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize="small")
    every = math.ceil(classes / 40)
    labels = list(map(literal, class_names))[::every]
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
