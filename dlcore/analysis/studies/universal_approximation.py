"""One hidden layer fitted to a few functions at growing widths (decks K and L).

Cybenko (1989) and Hornik (1991): a sum of sigmoids comes as near as one likes to any continuous
function on a cube. The theorem leaves open how many it takes; here that is measured.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.analysis.least_squares import (
    HiddenLayer,
    grown,
    levenberg_marquardt,
    random_network,
)
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.ranges import Natural, Positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Functions of points `[points, inputs]` of the unit cube, and the number of their inputs.
FUNCTIONS: Mapping[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "wave": (lambda x: np.sin(2 * np.pi * x[:, 0]), 1),
    "corner": (lambda x: np.abs(2 * x[:, 0] - 1), 1),
    "chirp": (lambda x: np.sin(12 * x[:, 0] ** 2), 1),
    "hills": (lambda x: np.sin(2 * np.pi * x).prod(axis=1), 2),
}
_TENTH_OF_STAIRCASE = "a tenth of the error of 32 steps, with which one proves the theorem"
# Points per side of the cube that a network is fitted to, by the cube's dimension.
_POINTS = {1: 201, 2: 21}


@dataclasses.dataclass(frozen=True)
class UniversalApproximation(study.Study):
    """The error of one hidden layer, fitted to four functions, by its number of units.

    All parameters are fitted at once, from several starts of which the best counts: one is the
    fitted network of the width before, with more units, which a fit can only improve; the others
    are random. Errors are measured at the points of the fit and midway between them: the root mean
    square and the largest. Where a wide network is hardly better than a narrower one, the fit ended
    too early; the theorem has no such limit.

    Attributes:
      widths: numbers of hidden units, ascending.
      starts: starts for each width.
      iterations: of each fit.
      seed: of the starts.
    """

    widths: tuple[Positive, ...] = (1, 2, 4, 8, 16, 32)
    starts: Positive = 3
    iterations: Positive = 1000
    seed: Natural = 0

    # The theorem's proof by hand: n steps of equal width come within half of what the function
    # varies over one of them, n being 32. Fitted units must do ten times better.
    expectations = (
        Expectation("wave_largest_error_of_widest", 0.0098, "min", _TENTH_OF_STAIRCASE),
        Expectation("corner_largest_error_of_widest", 0.0031, "min", _TENTH_OF_STAIRCASE),
        Expectation("chirp_largest_error_of_widest", 0.033, "min", _TENTH_OF_STAIRCASE),
        Expectation(
            "hills_largest_error_of_widest", 0.01, "min", "Cybenko (1989): as near as one likes"
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or any(np.diff(self.widths) < 1):
            raise UsageError(f"widths={self.widths}: they must ascend, from at least 1")

    def run(self) -> study.Numbers:
        """Errors of each function by width, and the fits to the chirp."""
        numbers: study.Numbers = {"width": np.array(self.widths)}
        for name, (function, inputs) in FUNCTIONS.items():
            x = grid(_POINTS[inputs], inputs)
            # Every point of the fit, and those midway between them.
            test = grid(2 * _POINTS[inputs] - 1, inputs)
            fits = np.array([network(test) for network in self._networks(x, function(x))])
            errors = np.abs(fits - function(test))
            numbers[f"{name}_root_mean_square_error"] = np.sqrt(np.square(errors).mean(1))
            numbers[f"{name}_largest_error"] = errors.max(1)
            numbers[f"{name}_largest_error_of_widest"] = errors[-1].max()
            if name == "chirp":
                numbers |= {"x": test[:, 0], "chirp": function(test), "chirp_fits": fits}
        return numbers

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """The errors by width, and the fits to the chirp by few units."""
        errors = {
            "root_mean_square_error": "root mean square error",
            "largest_error": "largest error",
        }
        panels = [
            plots.Panel(
                title,
                [
                    plots.Line(numbers["width"], numbers[f"{name}_{key}"], name, "path")
                    for name in FUNCTIONS
                ],
                x_label="hidden units",
                y_label="error",
                log_x=True,
                log_y=True,
            )
            for key, title in errors.items()
        ]
        return plots.line_panels([*panels, self._fits(numbers)], columns=3)

    def _fits(self, numbers: Mapping[str, np.ndarray]) -> plots.Panel:
        target = plots.Line(numbers["x"], numbers["chirp"], "chirp")
        fits = [
            plots.Line(numbers["x"], fit, f"width {width}", "dashed")
            for width, fit in zip(self.widths, numbers["chirp_fits"], strict=True)
            if width <= 4
        ]
        return plots.Panel("the chirp, and its fits", [target, *fits], x_label="x")

    def _networks(self, x: np.ndarray, y: np.ndarray) -> Iterator[HiddenLayer]:
        """The best fit of each width."""
        best: HiddenLayer | None = None
        for width in self.widths:
            generator = np.random.default_rng([self.seed, width])
            starts = [random_network(x, y, width, generator) for _ in range(self.starts)]
            if best:
                starts[0] = grown(best, starts[0])
            fitted = [levenberg_marquardt(start, x, y, self.iterations) for start in starts]
            best = min(fitted, key=lambda network: np.square(network(x) - y).sum())
            yield best


def grid(points: int, inputs: int) -> np.ndarray:
    """`points` per side of the unit cube: `[points ** inputs, inputs]`."""
    axes = np.meshgrid(*[np.linspace(0, 1, points)] * inputs)
    return np.stack(axes, axis=-1).reshape(-1, inputs)


study.register("universal_approximation", UniversalApproximation)
