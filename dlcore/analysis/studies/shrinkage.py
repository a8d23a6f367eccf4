"""Ridge regression and the lasso by the strength of the penalty: one weighs, one selects."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import data, plots
from dlcore.analysis import study
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.ranges import AboveZero, Positive, Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The columns of the table: s1 to s6 are measured in the blood.
_INPUTS = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")


@dataclasses.dataclass(frozen=True)
class Shrinkage(study.Study):
    """The weights of a linear unit on the diabetes table, as the penalty k grows.

    Ridge minimizes half the mean square error plus k/2 ||w||^2, the lasso plus k ||w||_1 (Krawiec
    swaps the names). A step goes down the error and then applies the penalty's proximal operator
    (Beck and Teboulle 2009, FISTA), so that the lasso's zeros are zeros; the `l1` of a
    recipe is a subgradient, which leaves them small.

    Attributes:
      smallest: penalty k at which the curves begin.
      largest: penalty k at which they end.
      strengths: penalties between them, in geometric order.
      steps: of the descent.
    """

    smallest: AboveZero = 0.01
    largest: AboveZero = 100.0
    strengths: Annotated[int, Range(least=2)] = 60
    steps: Positive = 2000

    expectations = (
        *study.near("ridge_zeros", 0, 0, "P: the weights shrink and stay"),
        *study.near("lasso_zeros", 197, 0, "scikit-learn's Lasso"),
        # Each strength is 1.17 times the one before.
        Expectation("dropped_all_over_theory", 1, "max", "Hastie et al. (2009): at max |x'y| / n"),
        Expectation(
            "dropped_all_over_theory", 1.18, "min", "Hastie et al. (2009): at max |x'y| / n"
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest >= self.largest:
            raise UsageError(
                f"smallest={self.smallest} and largest {self.largest}: both must be above 0, the"
                " second the larger"
            )

    def run(self) -> study.Numbers:
        """Measures: the weights `[strengths, inputs]`, and how many are zero.

        In theory the lasso drops every input from the penalty `strength_that_drops_all` on; the
        first one that did is divided by it in `dropped_all_over_theory`, infinite where none did.
        """
        table: Any = data.load("diabetes", options={"validation_fraction": 0.0})
        (batch,) = table.evaluation_batches("train", table.num_examples("train"))
        x = table.transform(batch, None, False)["row"]
        y = jnp.asarray(batch["numbers"][:, 0])
        strength = jnp.geomspace(self.smallest, self.largest, self.strengths)
        # The inputs are centered, so that the bias is the targets' mean whatever the weights.
        ridge, lasso = _descend(x, y - y.mean(), strength, self.steps)
        limit = float(jnp.abs(x.T @ (y - y.mean())).max() / len(y))
        dropped = np.asarray(strength)[np.all(lasso == 0, axis=1)]
        return {
            "strength": np.asarray(strength),
            "ridge": np.asarray(ridge),
            "lasso": np.asarray(lasso),
            "ridge_zeros": int((ridge == 0).sum()),
            "lasso_zeros": int((lasso == 0).sum()),
            "strength_that_drops_all": limit,
            "dropped_all_over_theory": dropped.min(initial=math.inf) / limit,
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Two panels: every weight over the penalty."""
        titles = {"ridge": "Ridge (L2) weighs", "lasso": "Lasso (L1) selects"}
        return plots.line_panels(
            [
                plots.Panel(
                    title,
                    [
                        plots.Line(numbers["strength"], weight, label)
                        for weight, label in zip(numbers[name].T, _INPUTS, strict=True)
                    ],
                    "penalty k",
                    "weight",
                    log_x=True,
                )
                for name, title in titles.items()
            ]
        )


def _descend(x: jax.Array, y: jax.Array, strength: jax.Array, steps: int) -> list[jax.Array]:
    """The weights of ridge and lasso, `[strengths, inputs]` each."""
    gram, target = x.T @ x / len(x), x.T @ y / len(x)
    rate = 1 / jnp.linalg.norm(gram, 2)
    k = strength[:, None] * rate

    def shrink(weights: jax.Array) -> jax.Array:
        return weights / (1 + k)

    def threshold(weights: jax.Array) -> jax.Array:
        return jnp.sign(weights) * jnp.maximum(jnp.abs(weights) - k, 0)

    def solve(proximal: Any) -> jax.Array:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            weights, ahead, t = carry
            moved = proximal(ahead - rate * (ahead @ gram - target))
            next_t = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
            return (moved, moved + (t - 1) / next_t * (moved - weights), next_t), None

        start = jnp.zeros((len(strength), x.shape[1]))
        (weights, _, _), _ = jax.lax.scan(step, (start, start, jnp.ones(())), length=steps)
        return weights

    return [solve(shrink), solve(threshold)]


study.register("shrinkage", Shrinkage)
