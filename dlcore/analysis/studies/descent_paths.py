"""The paths of batch, stochastic and mini-batch gradient descent (decks P and D)."""

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
from dlcore.ranges import AboveZero, Natural, NotNegative, Positive, Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

START = np.asarray([-1.5, 2.0])
SOLUTION = np.asarray([1.0, -0.5])


@dataclasses.dataclass(frozen=True)
class DescentPaths(study.Study):
    """Batch, stochastic and mini-batch descent over the same epochs of one regression.

    A linear model with two weights is fitted to noisy examples with half their mean square error as
    the loss, at one learning rate. Each epoch visits every example once, in an order of its own.

    Attributes:
      examples: size of the training set, at least 2.
      batch_size: examples in a mini-batch, a divisor of the training set's size.
      epochs: passes over the training set, at least 1.
      learning_rate: of all three, above 0.
      noise: standard deviation of the targets around the linear function.
      seed: of the examples and of their order.
    """

    examples: Annotated[int, Range(least=2)] = 100
    batch_size: Positive = 10
    epochs: Positive = 10
    learning_rate: AboveZero = 0.1
    noise: NotNegative = 1.0
    seed: Natural = 0

    expectations = (
        Expectation("error_of_batch", 1e-9, "min", "the closed form on a quadratic, to rounding"),
        Expectation("first_epoch_stochastic_over_batch", 0.5, "min", "P: more updates per epoch"),
        Expectation(
            "excess_stochastic_over_mini_batch", 3, "max", "P: smaller batches, more noise"
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples % self.batch_size:
            raise UsageError(
                f"batch_size={self.batch_size}: it must divide the {self.examples} examples"
            )

    def problem(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features `[examples, 2]`, targets `[examples]`, orders `[epochs, examples]`."""
        generator = np.random.default_rng(self.seed)
        correlated = np.asarray([[1.0, 0.0], [0.6, 0.8]])
        features = generator.normal(size=(self.examples, 2)) @ correlated.T
        targets = features @ SOLUTION + self.noise * generator.normal(size=self.examples)
        orders = [generator.permutation(self.examples) for _ in range(self.epochs)]
        return features, targets, np.asarray(orders)

    def run(self) -> study.Numbers:
        """Paths, the loss over the plane and at the end of each epoch, and scalars from these.

        `error_of_batch` is the largest distance of the batch path from its closed form.
        """
        features, targets, orders = self.problem()
        minimum = np.linalg.lstsq(features, targets)[0]

        def loss(weights: np.ndarray) -> np.ndarray:
            """Of weights `[..., 2]`."""
            return ((weights @ features.T - targets) ** 2).mean(axis=-1) / 2

        numbers: study.Numbers = {"minimum": minimum}
        sizes = {"batch": self.examples, "stochastic": 1, "mini_batch": self.batch_size}
        for name, size in sizes.items():
            path = self._descend(features, targets, orders.reshape(-1, size))
            numbers[f"path_{name}"] = path
            numbers[f"updates_{name}"] = len(path) - 1
            numbers[f"loss_{name}"] = loss(path[:: self.examples // size])
            numbers[f"excess_{name}"] = loss(path[-1]) - loss(minimum)
        x, y = np.linspace(np.minimum(START, minimum) - 1.0, np.maximum(START, minimum) + 1.0, 60).T
        plane = loss(np.stack(np.meshgrid(x, y), axis=-1))
        loss_batch, loss_stochastic = numbers["loss_batch"], numbers["loss_stochastic"]
        return {
            **numbers,
            "error_of_batch": np.abs(
                numbers["path_batch"] - self._closed_form(features, minimum)
            ).max(),
            "first_epoch_stochastic_over_batch": loss_stochastic[1] / loss_batch[1],
            "excess_stochastic_over_mini_batch": (
                numbers["excess_stochastic"] / numbers["excess_mini_batch"]
            ),
            "x": x,
            "y": y,
            "plane": plane,
        }

    def _closed_form(self, features: np.ndarray, minimum: np.ndarray) -> np.ndarray:
        """The path of batch descent on a quadratic: a step shrinks the distance by 1 - rate H."""
        curvatures, axes = np.linalg.eigh(features.T @ features / len(features))
        factors = (1 - self.learning_rate * curvatures) ** np.arange(self.epochs + 1)[:, None]
        return minimum + (factors * (axes.T @ (START - minimum))) @ axes.T

    def _descend(
        self, features: np.ndarray, targets: np.ndarray, batches: np.ndarray
    ) -> np.ndarray:
        with jax.enable_x64(True):
            inputs, outputs, chosen = map(jnp.asarray, (features, targets, batches))

            def gradient(weights: jax.Array, step: jax.Array) -> jax.Array:
                batch = inputs[chosen[step]]
                return batch.T @ (batch @ weights - outputs[chosen[step]]) / len(batch)

            optimizer = builder.build("sgd", lambda _: self.learning_rate)
            return trajectory(optimizer, gradient, START, len(batches))

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """The loss over the two weights, with a path in each panel, and where it ends."""
        panels = []
        for name in ("batch", "mini_batch", "stochastic"):
            path, minimum = numbers[f"path_{name}"], numbers["minimum"][:, None]
            lines = [
                plots.Line(path[:, 0], path[:, 1], "path", "path"),
                plots.Line(minimum[0], minimum[1], "minimum", "points"),
            ]
            excess = float(numbers[f"excess_{name}"])
            kind = name.replace("_", "-")
            title = f"{kind}, {len(path) - 1} updates: excess {excess:.2g}"
            axes = (numbers["x"], numbers["y"], numbers["plane"])
            panels.append(plots.Contour(title, *axes, lines, "weight 1", "weight 2", log=True))
        return plots.contour_panels(panels, columns=3)


study.register("descent_paths", DescentPaths)
