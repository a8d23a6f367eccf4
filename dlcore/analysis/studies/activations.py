"""The activation functions of the lectures and their first derivatives, as curves."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.nn.activations import activation, derivative
from dlcore.ranges import AboveZero, Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What maxout and softmax, which are functions of several numbers, see of x: two linear pieces.
_PIECES = np.array([1.0, -0.5], np.float32)


@dataclasses.dataclass(frozen=True)
class Activations(study.Study):
    """Each activation function and its derivative; how far the closed form is from `jax.grad`.

    Attributes:
      functions: names of `dlcore.nn.activations`, with commas between them.
      limit: the curves go from -limit to limit.
      points: points on a curve; an even number leaves out 0, where some have a kink.
    """

    functions: str = (
        "linear,sign,heaviside,heaviside:4,hard_threshold:0.5,sigmoid,sigmoid:3,tanh,scaled_tanh,"
        "relu,leaky_relu,elu,softplus,maxout,softmax"
    )
    limit: AboveZero = 4.0
    points: Annotated[int, Range(least=2)] = 400

    expectations = (
        Expectation("largest_derivative_error", 1e-6, "min", "`jax.grad`, to rounding"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self._names():
            activation(name)
        if self.points % 2:
            raise UsageError(f"points={self.points}: it must be even")

    def _names(self) -> list[str]:
        return self.functions.split(",")

    def run(self) -> study.Numbers:
        """Measures: the curves by name, and the largest error of a derivative."""
        x = jnp.linspace(-self.limit, self.limit, self.points)
        numbers: study.Numbers = {"x": np.asarray(x)}
        errors = []
        for name in self._names():
            values, by_formula, by_jax = _curves(name, x)
            numbers[f"value {name}"] = np.asarray(values)
            numbers[f"derivative {name}"] = np.asarray(by_formula)
            errors.append(float(jnp.abs(by_formula - by_jax).max()))
        return {**numbers, "largest_derivative_error": max(errors)}

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """A panel for each function."""
        x = numbers["x"]
        panels = [
            plots.Panel(
                f"{name} of x and -x/2" if name in ("maxout", "softmax") else name,
                (
                    plots.Line(x, numbers[f"value {name}"], "value"),
                    plots.Line(x, numbers[f"derivative {name}"], "derivative", "dashed"),
                ),
                "x",
            )
            for name in self._names()
        ]
        return plots.line_panels(panels)


@functools.partial(jax.jit, static_argnums=0)
def _curves(name: str, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Values at x, the derivatives by the closed form, and those by `jax.grad`."""
    g, g_prime = activation(name), derivative(name)
    kind = name.partition(":")[0]
    if kind not in ("maxout", "softmax"):
        return g(x), g_prime(x), jax.vmap(jax.grad(g))(x)
    pieces = x[:, None] * _PIECES
    inner = g_prime(pieces)
    # By the chain rule, for the first output: of softmax's Jacobian the first row.
    inner = inner[:, 0] if kind == "softmax" else inner
    first = jax.vmap(jax.grad(lambda x: g(x * _PIECES)[0]))
    return g(pieces)[:, 0], inner @ _PIECES, first(x)


study.register("activations", Activations)
