"""Every figure of the project, drawn from arrays.

A function returns a Matplotlib `Figure` that belongs to nobody (pyplot's global state is never
touched), so it may be drawn anywhere: in a training, in a notebook, in a thread. The lines' colors
are those of Okabe and Ito (2008), which people with any color vision tell apart.
"""

from dlcore.plots.bubbles import Bubble, bubbles
from dlcore.plots.comparison import compared_curves, reliability_diagram
from dlcore.plots.figure import save
from dlcore.plots.images import filters, image_grid
from dlcore.plots.panels import (
    Contour,
    Line,
    Panel,
    contour_panels,
    histograms,
    line_panels,
    surface,
)
from dlcore.plots.tables import summed_table
from dlcore.plots.training import confusion_matrix, learning_curves

__all__ = [
    "Bubble",
    "Contour",
    "Line",
    "Panel",
    "bubbles",
    "compared_curves",
    "confusion_matrix",
    "contour_panels",
    "filters",
    "histograms",
    "image_grid",
    "learning_curves",
    "line_panels",
    "reliability_diagram",
    "save",
    "summed_table",
    "surface",
]
