"""Momentum against Nesterov's method on a convex problem: 1/t against 1/t^2 (deck D)."""

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
from dlcore.optim import builder
from dlcore.ranges import Positive, Range, Rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Rules of `dlcore.optim.builder`, by the name of their numbers.
RULES = {"gradient_descent": "sgd", "momentum": "momentum", "nesterov_constant": "nesterov"}
_LABELS = {
    "gradient_descent": "gradient descent",
    "momentum": "momentum",
    "nesterov_constant": "Nesterov, constant",
    "nesterov": "Nesterov, growing",
}


@dataclasses.dataclass(frozen=True)
class Acceleration(study.Study):
    """The error of gradient descent, momentum and Nesterov's method by step, and its power of t.

    The function is a quadratic without a smallest curvature: curvatures fill (0, 1] and each holds
    an equal part of the error. On it the error of gradient descent falls as 1/t, and with a
    constant momentum of either kind it still does, sooner by a factor; 1/t^2 takes a momentum that
    grows, as in Nesterov's own method (1983).

    Attributes:
      steps: length of the descents, at least 20.
      dimension: number of curvatures, at least as many as steps.
      momentum: of momentum and of Nesterov's method with constant momentum, in [0, 1).
    """

    steps: Annotated[int, Range(least=20)] = 1000
    dimension: Positive = 4000
    momentum: Rate = 0.9

    expectations = (
        *study.near("power_gradient_descent", -1, 0.03, "Beck and Teboulle (2009), theorem 3.1"),
        *study.near("power_momentum", -1, 0.03, "gradient descent's"),
        *study.near("power_nesterov_constant", -1, 0.03, "gradient descent's"),
        *study.near("power_nesterov", -2, 0.1, "Nesterov (1983)"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimension < self.steps:
            raise UsageError(
                f"dimension={self.dimension}: it must be at least the {self.steps} steps"
            )

    def problem(self) -> tuple[np.ndarray, np.ndarray]:
        """Curvatures and start, `[dimension]` each; the minimum is 0, at the origin."""
        root = (np.arange(self.dimension) + 0.5) / self.dimension
        curvature = root**2
        part = 2 * root / self.dimension
        return curvature, np.sqrt(part / curvature)

    def run(self) -> study.Numbers:
        """Errors by step, the proved bounds on them, and the measured powers of t."""
        curvature, start = self.problem()
        options = builder.Options(momentum=self.momentum)
        with jax.enable_x64(True):
            scale = jnp.asarray(curvature)
            paths = {
                name: trajectory(
                    builder.build(rule, lambda _: 1.0, options),
                    lambda weights, _: scale * weights,
                    start,
                    self.steps,
                )
                for name, rule in RULES.items()
            }
            paths["nesterov"] = _nesterov(scale, start, self.steps)
        step = np.arange(1, self.steps + 1)
        late = step >= self.steps // 10
        numbers: study.Numbers = {"step": step}
        for name, path in paths.items():
            error = path[1:] ** 2 @ curvature / 2
            numbers[f"error_{name}"] = error
            numbers[f"power_{name}"] = np.polyfit(np.log(step[late]), np.log(error[late]), 1)[0]
        # Beck and Teboulle (2009), theorems 3.1 and 4.4.
        distance = (start**2).sum()
        numbers["bound_gradient_descent"] = distance / (2 * step)
        numbers["bound_nesterov"] = 2 * distance / (step + 1) ** 2
        return numbers

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """The errors by step with their powers of t, both on logarithmic scales."""
        step = numbers["step"]
        lines = [
            plots.Line(
                step,
                numbers[f"error_{name}"],
                f"{label}: t^{float(numbers[f'power_{name}']):.2f}",
            )
            for name, label in _LABELS.items()
        ]
        for name, color in (("gradient_descent", 0), ("nesterov", len(RULES))):
            bound = numbers[f"bound_{name}"]
            lines.append(plots.Line(step, bound, f"{_LABELS[name]}: bound", "dashed", color))
        panel = plots.Panel(
            "a convex quadratic; momentum constant or growing", lines, "step t", "error", True, True
        )
        return plots.line_panels([panel])


def _nesterov(curvature: jax.Array, start: np.ndarray, steps: int) -> np.ndarray:
    """Nesterov's method (1983) at the rate 1, whose momentum grows from 0 toward 1.

    Its iterates before the first step and after each, `[steps + 1, dimension]`.
    """

    def advance(
        state: tuple[jax.Array, jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
        weights, ahead, scale = state
        new = ahead - curvature * ahead
        new_scale = (1 + jnp.sqrt(1 + 4 * scale**2)) / 2
        return (new, new + (scale - 1) / new_scale * (new - weights), new_scale), new

    began = jnp.asarray(start)
    _, path = jax.lax.scan(advance, (began, began, jnp.ones(())), None, length=steps)
    return np.concatenate([start[None], np.asarray(path)])


study.register("acceleration", Acceleration)
