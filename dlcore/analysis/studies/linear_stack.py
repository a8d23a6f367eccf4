"""A stack of linear layers is one linear layer; a nonlinearity between them makes it more (K)."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.expectation import Expectation
from dlcore.nn.activations import activation
from dlcore.nn.units import collapse
from dlcore.ranges import Natural, Positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class LinearStack(study.Study):
    """The same random layers with and without an activation function between them.

    Attributes:
      depth: number of layers.
      units: units of every hidden layer; there is one input and one output.
      nonlinearity: the activation function between the layers.
      seed: of the weights and biases.
    """

    depth: Positive = 5
    units: Positive = 32
    nonlinearity: str = "tanh"
    seed: Natural = 0

    expectations = (
        Expectation("collapse_error", 1e-5, "min", "K: a linear stack is one layer; to rounding"),
        Expectation("linear_unexplained", 1e-8, "min", "K: it answers with a straight line"),
        Expectation("nonlinear_unexplained", 0.1, "max", "K: tanh between makes it more"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        activation(self.nonlinearity)

    def run(self) -> study.Numbers:
        """Measures what both stacks answer along the input x.

        - the outputs of the linear stack, of the one layer that it collapses to, and of the stack
          with nonlinearities;
        - `collapse_error`: the largest difference of the first two, over the largest output;
        - how much of each stack's variance no straight line explains.
        """
        x = np.linspace(-3, 3, 301, dtype=np.float32)[:, None]
        numbers = {"x": x, **jax.device_get(jax.jit(self._outputs)(x))}
        curves = {name: array[:, 0].astype(np.float64) for name, array in numbers.items()}
        error = np.abs(curves["linear"] - curves["collapsed"]).max()
        return {
            **curves,
            "collapse_error": error / np.abs(curves["linear"]).max(),
            "linear_unexplained": _unexplained(curves["x"], curves["linear"]),
            "nonlinear_unexplained": _unexplained(curves["x"], curves["nonlinear"]),
        }

    def _outputs(self, x: jax.Array) -> dict[str, jax.Array]:
        layers = self._layers()
        with jax.default_matmul_precision("highest"):
            kernel, bias = collapse(layers)
            return {
                "linear": _stack(layers, activation("linear"), x),
                "collapsed": x @ kernel + bias,
                "nonlinear": _stack(layers, activation(self.nonlinearity), x),
            }

    def _layers(self) -> list[tuple[jax.Array, jax.Array]]:
        """Kernels of variance 1 / inputs and biases of variance 1."""
        generator = np.random.default_rng(self.seed)
        sizes = [1, *[self.units] * (self.depth - 1), 1]
        layers = []
        for inputs, units in itertools.pairwise(sizes):
            kernel = generator.standard_normal((inputs, units)) / np.sqrt(inputs)
            bias = generator.standard_normal(units)
            layers.append((jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32)))
        return layers

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Two panels: without and with nonlinearities."""
        x = numbers["x"]
        linear = plots.Line(x, numbers["linear"], f"{self.depth} linear layers")
        single = plots.Line(x, numbers["collapsed"], "the one layer they collapse to", "dashed")
        nonlinear = plots.Line(x, numbers["nonlinear"], f"{self.nonlinearity} between", color=2)
        return plots.line_panels(
            [
                plots.Panel("linear layers", (linear, single), "input", "output"),
                plots.Panel(f"with {self.nonlinearity}", (nonlinear,), "input", "output"),
            ]
        )


def _stack(
    layers: Sequence[tuple[jax.Array, jax.Array]],
    between: Callable[[jax.Array], jax.Array],
    x: jax.Array,
) -> jax.Array:
    for kernel, bias in layers[:-1]:
        x = between(x @ kernel + bias)
    kernel, bias = layers[-1]
    return x @ kernel + bias


def _unexplained(x: np.ndarray, y: np.ndarray) -> float:
    """The share of the variance of y that is left when the best straight line is taken off."""
    return float(np.var(y - np.polyval(np.polyfit(x, y, 1), x)) / np.var(y))


study.register("linear_stack", LinearStack)
