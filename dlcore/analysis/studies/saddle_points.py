"""Saddle points outnumber minima as the dimension grows (deck K; Dauphin et al., 2014)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dlcore import models, plots
from dlcore.analysis import study
from dlcore.analysis.curvature import hessian, negative_share
from dlcore.analysis.descent import random_start, trajectory
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.optim import builder
from dlcore.ranges import Natural, Positive, Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Waves in a random function: enough for it to be close to a Gaussian field.
WAVES = 128


@dataclasses.dataclass(frozen=True)
class SaddlePoints(study.Study):
    """The signs of the Hessian's eigenvalues in random functions and in networks of growing size.

    A random function is a sum of waves of random direction, length and phase, in the limit a
    Gaussian field. What share of its critical points are minima follows from Hessians at any point,
    weighted by the size of their determinant (Kac and Rice; in such a field the Hessian does not
    depend on the gradient). Half of them are minima in one dimension, a quarter in two, and soon
    none. The higher the function, the more eigenvalues are negative. The networks are MLPs with one
    hidden layer of tanh units that learn the parity of two signs, before and after training.

    Attributes:
      dimensions: of the random functions; each at least 1.
      samples: random functions of each dimension, at least 2.
      widths: hidden units of the networks; each at least 1.
      steps: of full-batch Adam, with which a network is trained, at least 1.
      seed: of all that is drawn.
    """

    dimensions: tuple[Positive, ...] = (1, 2, 3, 4, 6, 8)
    samples: Annotated[int, Range(least=2)] = 4000
    widths: tuple[Positive, ...] = (2, 4, 8, 16, 32)
    steps: Positive = 1000
    seed: Natural = 0

    # In one dimension minima and maxima take turns; in two there are as many extrema as saddles.
    expectations = (
        *study.near("minima_1", 1 / 2, 1e-9, "minima and maxima take turns"),
        *study.near("minima_2", 1 / 4, 0.02, "Morse theory"),
        *study.near(
            "minima_3", (29 - 6 * math.sqrt(6)) / 116, 0.02, "Bardeen et al. (1986), appendix A"
        ),
        Expectation("minima_8", 0.02, "min", "Dauphin et al. (2014): saddle points prevail"),
        Expectation("correlation", 0.7, "max", "Dauphin et al. (2014): the higher, the more"),
        Expectation("negative_after_over_before", 0.6, "min", "dlcore: training leaves saddles"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dimensions", "widths"):
            if not getattr(self, name):
                raise UsageError(f"{name} is empty: name numbers of at least 1")

    def run(self) -> study.Numbers:
        """Shares of minima, heights and shares of negative eigenvalues.

        `minima_N` is the share of minima in N dimensions, `correlation` that of height and share of
        negative eigenvalues, and `negative_after_over_before` the largest share of a trained
        network over its share before.
        """
        generator = np.random.default_rng(self.seed)
        with jax.enable_x64(True):
            height, matrices = _fields(generator, max(self.dimensions), self.samples)
            networks = [_network(generator, width, self.steps) for width in self.widths]
        # Along fewer axes a Gaussian field is one too, of that dimension.
        values = [np.linalg.eigvalsh(matrices[:, :n, :n]) for n in self.dimensions]
        minima = [_minima(own) for own in values]
        count, before, after, loss = np.asarray(networks).T
        negative = negative_share(values[int(np.argmax(self.dimensions))])
        return {
            "dimension": np.asarray(self.dimensions),
            "minima": np.asarray(minima),
            **{f"minima_{n}": own for n, own in zip(self.dimensions, minima, strict=True)},
            "height": height,
            "negative": negative,
            "correlation": np.corrcoef(height, negative)[0, 1],
            "parameters": count.astype(int),
            "negative_before": before,
            "negative_after": after,
            "negative_after_over_before": (after / before).max(),
            "loss_after": loss,
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Critical points by dimension, eigenvalues by height, and the networks' eigenvalues."""
        dimension, parameters = numbers["dimension"], numbers["parameters"]
        saddles = 1 - 2 * numbers["minima"]
        kinds = [
            plots.Line(dimension, saddles, "saddle points", "path", 1),
            plots.Line(dimension, numbers["minima"], "minima", "path", 0),
        ]
        levels = np.unique(numbers["negative"])
        means = np.asarray([numbers["height"][numbers["negative"] == x].mean() for x in levels])
        heights = [
            plots.Line(numbers["height"][:500], numbers["negative"][:500], "", "points"),
            plots.Line(means, levels, "mean height", "path"),
        ]
        training = [
            plots.Line(parameters, numbers["negative_before"], "before training", "path"),
            plots.Line(parameters, numbers["negative_after"], "after training", "path"),
        ]
        share = "negative eigenvalues, share"
        return plots.line_panels(
            [
                plots.Panel("random functions", kinds, "dimension", "share of critical points"),
                plots.Panel(f"in {dimension.max()} dimensions", heights, "height", share),
                plots.Panel("networks", training, "parameters", share),
            ],
            columns=3,
        )


def _fields(
    generator: np.random.Generator, dimension: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Heights `[samples]` and Hessians `[samples, n, n]` of random functions of n variables."""

    def one(waves: jax.Array, phases: jax.Array) -> tuple[jax.Array, jax.Array]:
        def field(point: jax.Array) -> jax.Array:
            return jnp.sqrt(2 / WAVES) * jnp.cos(waves @ point + phases).sum()

        origin = jnp.zeros(dimension)
        return field(origin), hessian(field, origin)

    waves = generator.standard_normal((samples, WAVES, dimension))
    phases = generator.uniform(0, 2 * np.pi, (samples, WAVES))
    return jax.device_get(jax.jit(jax.vmap(one))(waves, phases))


def _minima(eigenvalues: np.ndarray) -> float:
    """The share of minima among critical points, from the eigenvalues of Hessians at any point."""
    weights = np.abs(eigenvalues.prod(axis=-1))
    extrema = (eigenvalues > 0).all(axis=-1) | (eigenvalues < 0).all(axis=-1)
    # The negative of a random function is as likely as itself: as many maxima as minima.
    return weights @ extrema / weights.sum() / 2


def _network(
    generator: np.random.Generator, width: int, steps: int
) -> tuple[int, float, float, float]:
    """Parameters, negative shares before and after training, and the loss after."""
    inputs = jnp.asarray(generator.standard_normal((64, 2)))
    labels = (inputs[:, 0] * inputs[:, 1] > 0).astype(int)
    model = models.create("mlp", hidden=(width,), activation="tanh", num_classes=2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    drawn = random_start(shapes, generator)
    start, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf.astype(inputs.dtype), drawn))

    def loss(parameters: jax.Array) -> jax.Array:
        logits: Any = model.apply(unravel(parameters), inputs)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    @jax.jit
    def measure(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(lambda point: (loss(point), hessian(loss, point)))(points)

    optimizer = builder.build("adam", lambda _: 0.03)
    path = trajectory(optimizer, lambda w, _: jax.grad(loss)(w), np.asarray(start), steps)
    losses, matrices = jax.device_get(measure(path[[0, -1]]))
    before, after = negative_share(np.linalg.eigvalsh(matrices))
    return start.size, before, after, losses[1]


study.register("saddle_points", SaddlePoints)
