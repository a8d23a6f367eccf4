"""Learning an answer directly, or what has to be added to the input for it (deck D).

Source: He, Zhang, Ren and Sun (2016), section 3.1: where the answer h(x) is near to x, layers learn
f(x) = h(x) - x more easily than h(x).
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import losses, plots
from dlcore.analysis import study
from dlcore.analysis.descent import descend, random_start
from dlcore.analysis.photograph import photograph
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.optim import builder, schedules
from dlcore.ranges import AboveZero, Natural, Positive, Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WAYS = ("direct", "residual")

# Of the single unit: points on the line -1..1, starts, and steps of gradient descent.
_POINTS, _UNIT_STARTS, _UNIT_STEPS, _UNIT_RATE = 200, 20, 1000, 0.5

# Of the photograph: its height and width, how many of its columns are learned from, and patches.
_SIZE, _LEARNED, _SIDE, _TEST_PATCHES = 427, 256, 10, 2000
_BATCH, _RATE = 128, 1e-3

Params = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ResidualLearning(study.Study):
    """A ReLU unit learns y = x, and networks to denoise patches, directly and as a residual.

    The unit answers max(0, w x + b), or x + max(0, w x + b), to points of -1..1. The networks have
    two hidden layers of ReLU units between 10x10 pixels and as many. They are given x = d + n, a
    patch d of a photograph with normal noise n, and answer f(x), or x + f(x), which should be d.
    Both ways begin with the same weights and see the same patches and noise. Errors are of patches
    from another part of the photograph, mean squares divided by the variance of the noise: an error
    of 1 is that of the noisy patch itself.

    What is seen is the deck's argument, and its limit. With little noise x is near to d, and direct
    networks have yet to learn what residual ones begin with. With much noise a patch, which is
    smooth, is learned sooner than the noise.

    Attributes:
      noise: standard deviations of n, ascending, where that of the photograph's pixels is 1.
      units: of each hidden layer.
      steps: of Adam, on batches of 128 patches, in the longest training.
      halvings: how many shorter trainings there are, each of half the steps of the next one.
      starts: networks of each kind, from different weights; errors are means over them.
      seed: of weights, patches and noise.
    """

    noise: tuple[AboveZero, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    units: Positive = 128
    steps: Positive = 1024
    halvings: Annotated[int, Range(least=0, most=30)] = 3
    starts: Positive = 3
    seed: Natural = 0

    # The best unit is max(0, x): half of the mean of x^2, 1/3, is left.
    expectations = (
        *study.near("unit_direct_least", 1 / 6, 1e-3, "D: impossible; by hand, the best"),
        Expectation("unit_residual_greatest", 1e-5, "min", "D: trivial"),
        Expectation("least_noise_direct_over_residual", 4, "max", "D: a subtle difference"),
        Expectation("residual_greatest", 1.05, "min", "D: learn what is around x, which has 1"),
        Expectation("most_noise_direct_over_residual", 1, "min", "dlcore: x is far from d"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise or any(np.diff(self.noise) <= 0):
            raise UsageError(f"noise={self.noise}: it must ascend, from above 0")
        if self.steps < 2**self.halvings:
            raise UsageError(
                f"steps={self.steps}: it must be at least 2^halvings = {2**self.halvings}"
            )

    def run(self) -> study.Numbers:
        """What the units and the networks answer, and their errors."""
        generator = np.random.default_rng(self.seed)
        return _units(generator) | self._denoising(generator)

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """The answers of the units, and the errors of the networks by steps and by noise."""
        styles = dict(zip(_WAYS, ("line", "dashed"), strict=True))
        units = [
            plots.Line(numbers["x"], numbers[f"unit_{way}"], way, style, color=color)
            for color, (way, style) in enumerate(styles.items())
        ]
        least, most = self.noise[0], self.noise[-1]
        by_steps = [
            plots.Line(numbers["steps"], numbers[way][row], f"{way}, {noise:g}", style, color=color)
            for row, noise, style in ((0, least, "path"), (-1, most, "dashed"))
            for color, way in enumerate(_WAYS)
        ]
        by_noise = [
            plots.Line(numbers["noise"], numbers[way][:, -1], way, "path", color=color)
            for color, way in enumerate(_WAYS)
        ]
        linear = plots.Line(numbers["noise"], numbers["linear"], "best linear", "dashed", color=2)
        log: Any = {"y_label": "error / variance of noise", "log_x": True, "log_y": True}
        return plots.line_panels(
            [
                plots.Panel("one ReLU unit learns y = x", units, "x", "answer"),
                plots.Panel(f"noise {least:g} and {most:g}", by_steps, "steps", **log),
                plots.Panel(f"after {self.steps} steps", [*by_noise, linear], "noise", **log),
            ],
            columns=3,
        )

    def _denoising(self, generator: np.random.Generator) -> study.Numbers:
        """Errors `[noise, trainings]` of each way, and of the best linear answer `[noise]`.

        Of the longest trainings also the greatest error as a residual, and the direct error over
        that as a residual with the least and with the most noise.
        """
        starts = [random_start(self._shapes(), generator) for _ in range(self.starts)]
        start = jax.tree.map(lambda *own: np.stack(own), *starts)
        train, test = _patches(generator)
        steps = [self.steps >> halving for halving in reversed(range(self.halvings + 1))]
        order = generator.integers(0, len(train), (self.steps, _BATCH))
        errors: dict[str, list[list[float]]] = {way: [] for way in _WAYS}
        linear = []
        for noise in self.noise:
            noisy = test + noise * generator.standard_normal(test.shape, np.float32)
            linear.append(_linear_error(train, test, noisy, noise))
            for way in _WAYS:
                trained = [
                    _train(start, train, order[:count], noise, self.seed, way == "residual")
                    for count in steps
                ]
                errors[way].append(
                    [float(_error(params, test, noisy, way == "residual")) for params in trained]
                )
        scale = np.square(self.noise)
        numbers: study.Numbers = {
            "noise": np.array(self.noise),
            "steps": np.array(steps),
            "linear": np.array(linear) / scale,
        }
        for way in _WAYS:
            numbers[way] = np.array(errors[way]) / scale[:, None]
        ratio = numbers["direct"][:, -1] / numbers["residual"][:, -1]
        return numbers | {
            "least_noise_direct_over_residual": ratio[0],
            "most_noise_direct_over_residual": ratio[-1],
            "residual_greatest": numbers["residual"][:, -1].max(),
        }

    def _shapes(self) -> dict[str, Any]:
        sizes = (_SIDE**2, self.units, self.units, _SIDE**2)
        return {
            f"{kind}{layer}": jax.ShapeDtypeStruct(shape, np.dtype(np.float32))
            for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes))
            for kind, shape in (("kernel", (inputs, outputs)), ("bias", (outputs,)))
        }


def _units(generator: np.random.Generator) -> study.Numbers:
    """The best unit of all starts, directly, and the worst as a residual; their errors."""
    x = (np.arange(_POINTS, dtype=np.float32) + 0.5) * 2 / _POINTS - 1
    starts = generator.standard_normal((_UNIT_STARTS, 2), np.float32)
    answers = {way: np.asarray(_fit_units(starts, x, way == "residual")) for way in _WAYS}
    errors = {way: np.square(own - x).mean(1) for way, own in answers.items()}
    return {
        "x": x,
        "unit_direct": answers["direct"][errors["direct"].argmin()],
        "unit_direct_least": errors["direct"].min(),
        "unit_residual": answers["residual"][errors["residual"].argmax()],
        "unit_residual_greatest": errors["residual"].max(),
    }


@functools.partial(jax.jit, static_argnums=2)
def _fit_units(starts: jax.Array, x: jax.Array, residual: bool) -> jax.Array:
    """What units answer after gradient descent from starts (w, b), `[starts, points]`."""

    def answer(unit: jax.Array) -> jax.Array:
        return jax.nn.relu(unit[0] * x + unit[1]) + x * residual

    def fit(start: jax.Array) -> jax.Array:
        def gradient(unit: jax.Array, _: jax.Array) -> jax.Array:
            return jax.grad(lambda unit: jnp.square(answer(unit) - x).mean())(unit)

        optimizer = builder.build("sgd", schedules.build("constant", _UNIT_RATE, _UNIT_STEPS))
        return answer(descend(optimizer, gradient, start, jnp.arange(_UNIT_STEPS)))

    return jax.vmap(fit)(starts)


def _patches(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """All patches of the photograph's left part, and some of the rest, `[patches, pixels]`.

    Pixels are in units of the former's standard deviation, from their mean.
    """
    image = photograph(_SIZE)
    left, right = (
        np.lib.stride_tricks.sliding_window_view(part, (_SIDE, _SIDE)).reshape(-1, _SIDE**2)
        for part in (image[:, :_LEARNED], image[:, _LEARNED:])
    )
    chosen = generator.choice(len(right), _TEST_PATCHES, replace=False)
    mean, deviation = left.mean(), left.std()
    return (left - mean) / deviation, (right[chosen] - mean) / deviation


def _answer(params: Params, x: jax.Array, residual: bool) -> jax.Array:
    hidden = jax.nn.relu(x @ params["kernel0"] + params["bias0"])
    hidden = jax.nn.relu(hidden @ params["kernel1"] + params["bias1"])
    return hidden @ params["kernel2"] + params["bias2"] + x * residual


@functools.partial(jax.jit, static_argnums=5)
def _train(
    starts: Params, patches: jax.Array, order: jax.Array, noise: float, seed: int, residual: bool
) -> Params:
    """The networks after a step for each row of `order`; the first axis of parameters counts them.

    They share their batches and their noise.
    """
    optimizer = builder.build("adam", schedules.build("cosine", _RATE, len(order)))
    keys = jax.random.split(jax.random.key(seed), len(order))

    def gradient(params: Params, own: tuple[jax.Array, jax.Array]) -> Params:
        clean = patches[own[0]]
        noisy = clean + noise * jax.random.normal(own[1], clean.shape)
        return jax.grad(_loss)(params, clean, noisy, residual)

    return jax.vmap(lambda start: descend(optimizer, gradient, start, (order, keys)))(starts)


@functools.partial(jax.jit, static_argnums=3)
def _error(params: Params, clean: jax.Array, noisy: jax.Array, residual: bool) -> jax.Array:
    """The mean loss of the networks."""
    return jax.vmap(lambda params: _loss(params, clean, noisy, residual))(params).mean()


def _loss(params: Params, clean: jax.Array, noisy: jax.Array, residual: bool) -> jax.Array:
    return losses.mean_square(_answer(params, noisy, residual), clean).mean()


def _linear_error(
    train: np.ndarray, test: np.ndarray, noisy: np.ndarray, noise: float
) -> np.floating:
    """The same of the best linear answer to patches such as those of `train` (Wiener 1949)."""
    covariance = train.T.astype(np.float64) @ train / len(train)
    answer = np.linalg.solve(covariance + noise**2 * np.eye(len(covariance)), covariance)
    return np.square(noisy @ answer - test).mean()


study.register("residual_learning", ResidualLearning)
