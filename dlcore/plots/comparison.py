"""Several trained networks in one figure: how they learned, and how well they know themselves."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlcore.errors import UsageError
from dlcore.plots.panels import Line, Panel, line_panels
from dlcore.plots.training import falls_far

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compared_curves(
    runs: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    names: Sequence[str] = ("loss", "accuracy"),
    splits: Sequence[str] = ("train", "validation"),
) -> "Figure":
    """Metrics over the epochs: a row for each metric, a panel for each split, a line for each run.

    Args:
      runs: the metrics of each run by its name, as `learning_curves` takes them.
      names: of the metrics.
      splits: where they were measured.

    Raises:
      UsageError: no run has any of the metrics.
    """
    panels = []
    for name in names:
        for split in splits:
            has = {run: own[split] for run, own in runs.items() if name in own.get(split, {})}
            if has:
                # One color for a run in all panels, whichever of the others have the metric.
                lines = [
                    Line(own["epoch"], own[name], run, color=list(runs).index(run))
                    for run, own in has.items()
                ]
                log = falls_far(name, [own[name] for own in has.values()])
                title = f"{name.replace('_', ' ')}, {split}"
                panels.append(Panel(title, lines, "epoch", log_y=log))
    if not panels:
        raise UsageError(f"no run has recorded any of {', '.join(names)}")
    return line_panels(panels, columns=len(splits))


def reliability_diagram(
    measured: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> "Figure":
    """How often answers are right against how sure they are, and how many are how sure.

    A point on the diagonal is as often right as it says; below it, the classifier is too sure of
    itself.

    Args:
      measured: for each run, by its name, the mean confidence, the accuracy and the number of the
        answers in bins of equal width over 0..1, `[bins]` each, as
        `dlcore.analysis.calibration.reliability` gives them.
    """
    diagonal = np.asarray([0.0, 1.0])
    reliable = [Line(diagonal, diagonal, style="dashed", color=len(measured))]
    shares = []
    for color, (name, (confidence, accuracy, count)) in enumerate(measured.items()):
        there = count > 0
        reliable.append(Line(confidence[there], accuracy[there], name, "path", color))
        edges = np.linspace(0, 1, len(count) + 1)
        # A step goes on to the next edge; the last one has to be drawn out.
        share = np.append(count, count[-1]) / count.sum()
        shares.append(Line(edges, share, name, "steps", color))
    return line_panels(
        [
            Panel("reliability", reliable, "confidence", "accuracy"),
            Panel("share of the answers", shares, "confidence"),
        ],
        columns=2,
    )
