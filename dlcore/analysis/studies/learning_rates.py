"""A learning rate that is too small, right and too large (deck D)."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.analysis.descent import trajectory
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.optim import builder
from dlcore.ranges import Positive, Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

START = np.asarray([-3.0, 1.0])


@dataclasses.dataclass(frozen=True)
class LearningRates(study.Study):
    """Gradient descent on a quadratic valley at several rates, against the theory of its speed.

    Along a direction of curvature c a step multiplies the distance by `1 - rate c`: the descent
    converges below the rate `2 / c` of the steepest direction, and is fastest at 2 over the sum of
    the smallest and the largest curvature.

    Attributes:
      percents: the rates, in percent of the largest that converges; each at least 1.
      condition: largest curvature over the smallest, which is 1; above 1.
      steps: how many steps to take, at least 2.
    """

    percents: tuple[Positive, ...] = (5, 50, 91, 102)
    condition: Annotated[float, Range(above=1)] = 10.0
    steps: Annotated[int, Range(least=2)] = 30

    expectations = (
        *study.near("fastest_rate", 2 / 11, 0.002, "closed form, 2 / (1 + 10)"),
        Expectation("speed_error", 0.01, "min", "closed form, |1 - rate c|"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.percents:
            raise UsageError("percents is empty: name rates of at least 1 percent")

    def run(self) -> study.Numbers:
        """Paths and losses, and the factor of a step: by theory and as seen at the end.

        `speed_error` is the largest relative difference of these two, `fastest_rate` the one with
        the smallest factor; by theory that is `best_rate`.
        """
        curvature = np.asarray([1.0, self.condition])
        rates = np.asarray(self.percents) / 100 * 2 / self.condition
        with jax.enable_x64(True):
            scale = jnp.asarray(curvature)
            paths = [
                trajectory(
                    builder.build("sgd", lambda _, rate=rate: rate),
                    lambda weights, _: scale * weights,
                    START,
                    self.steps,
                )
                for rate in rates
            ]
        path = np.stack(paths)
        distance = np.linalg.norm(path, axis=-1)
        predicted = np.abs(1 - np.outer(rates, curvature)).max(axis=-1)
        measured = distance[:, -1] / distance[:, -2]
        return {
            "rate": rates,
            "path": path,
            "loss": (curvature * path**2).sum(axis=-1) / 2,
            "factor_predicted": predicted,
            "factor_measured": measured,
            "speed_error": np.abs(measured / predicted - 1).max(),
            "fastest_rate": rates[measured.argmin()],
            "best_rate": 2 / curvature.sum(),
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """The valley with the path of each rate."""
        x, y = np.linspace(-3.5, 3.5, 60), np.linspace(-3, 3, 60)
        valley = (x**2 + self.condition * y[:, None] ** 2) / 2
        panels = [
            plots.Contour(
                f"rate {rate:.3g}: loss {loss[-1]:.2g} after {self.steps} steps",
                x,
                y,
                valley,
                [plots.Line(path[:, 0], path[:, 1], style="path", color=1)],
                "weight 1",
                "weight 2",
                log=True,
            )
            for rate, loss, path in zip(
                numbers["rate"], numbers["loss"], numbers["path"], strict=True
            )
        ]
        return plots.contour_panels(panels)


study.register("learning_rates", LearningRates)
