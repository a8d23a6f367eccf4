"""What the layers of a deep network see, forward and backward, before it has learned anything.

The experiment is that of K (after Stanford's CS231n): ten layers of 500 units without biases, fed
with standard normal numbers. K asks what follows for the gradients; here they are measured, too.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.expectation import Expectation
from dlcore.nn.activations import activation
from dlcore.nn.initializers import initializer
from dlcore.ranges import Natural, Positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How many numbers of each distribution are kept for the figure.
_SAMPLE = 5000


def _ratio(metric: str, value: float, tolerance: float) -> tuple[Expectation, Expectation]:
    """By mean-field theory, to a relative tolerance."""
    return study.near(metric, value, tolerance * value, "Schoenholz et al. (2017), mean field")


@dataclasses.dataclass(frozen=True)
class Initialization(study.Study):
    """Activations and back-propagated gradients, layer by layer, under several initializations.

    Attributes:
      settings: pairs ACTIVATION+INITIALIZER with commas between them, by the names of
        `dlcore.nn.activations` and `dlcore.nn.initializers`.
      layers: layers of the network.
      units: units of every layer, and inputs.
      examples: inputs, drawn from the standard normal distribution.
      seed: of inputs, weights and the gradient at the top.
    """

    settings: str = "tanh+small_uniform:0.01,tanh+xavier,relu+xavier,relu+he"
    layers: Positive = 10
    units: Positive = 500
    examples: Positive = 1000
    seed: Natural = 0

    # Nine layers of 500 units, when the number of units goes to infinity: a layer multiplies the
    # deviation by 0.01 sqrt(500 / 3) under small tanh, by 1 / sqrt(2) under ReLU with Xavier.
    expectations = (
        *_ratio("activation_ratio tanh+small_uniform:0.01", (0.01 * math.sqrt(500 / 3)) ** 9, 0.1),
        *_ratio("gradient_ratio tanh+small_uniform:0.01", (0.01 * math.sqrt(500 / 3)) ** 9, 0.1),
        *_ratio("activation_ratio tanh+xavier", 0.3639, 0.1),
        *_ratio("gradient_ratio tanh+xavier", 0.3920, 0.1),
        *_ratio("activation_ratio relu+xavier", 2**-4.5, 0.15),
        *_ratio("gradient_ratio relu+xavier", 2**-4.5, 0.15),
        *_ratio("activation_ratio relu+he", 1.0, 0.1),
        *_ratio("gradient_ratio relu+he", 1.0, 0.1),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for g, rule in self._settings():
            activation(g)
            initializer(rule)

    def _settings(self) -> list[tuple[str, str]]:
        pairs = [setting.partition("+") for setting in self.settings.split(",")]
        return [(g, rule) for g, _, rule in pairs]

    def run(self) -> study.Numbers:
        """Measures what each layer sees; the arrays have the axes [settings, layers].

        - mean and standard deviation of the activations;
        - `active_fraction`: how many of them are above 0;
        - standard deviation of the gradient with respect to them, where a standard normal one
          comes in at the top;
        - samples of both, on a third axis.

        The scalars are the last layer's deviation over the first one's, for the gradients the first
        one's over the last one's.
        """
        columns: dict[str, list[np.ndarray]] = {}
        ratios = {}
        for setting, (g, rule) in zip(self.settings.split(","), self._settings(), strict=True):
            activations, gradients = self._propagate(g, rule)
            deviations = activations.std((1, 2)), gradients.std((1, 2))
            for name, column in {
                "activation_mean": activations.mean((1, 2)),
                "activation_deviation": deviations[0],
                "active_fraction": (activations > 0).mean((1, 2)),
                "gradient_deviation": deviations[1],
                "activation_sample": activations.reshape(self.layers, -1)[:, :_SAMPLE],
                "gradient_sample": gradients.reshape(self.layers, -1)[:, :_SAMPLE],
            }.items():
                columns.setdefault(name, []).append(column)
            ratios[f"activation_ratio {setting}"] = deviations[0][-1] / deviations[0][0]
            ratios[f"gradient_ratio {setting}"] = deviations[1][0] / deviations[1][-1]
        return {**{name: np.stack(column) for name, column in columns.items()}, **ratios}

    def _propagate(self, g: str, rule: str) -> tuple[np.ndarray, np.ndarray]:
        """Activations and their gradients, both `[layers, examples, units]`."""
        keys = jax.random.split(jax.random.key(self.seed), self.layers + 2)
        inputs, top = (jax.random.normal(key, (self.examples, self.units)) for key in keys[:2])
        kernels = [initializer(rule)(key, (self.units, self.units)) for key in keys[2:]]
        return jax.device_get(_activations_and_gradients(g, inputs, kernels, top))

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Histograms: a column for each layer, two rows for each setting."""
        rows = {}
        for index, setting in enumerate(self.settings.split(",")):
            title = setting.replace("+", "\n")
            rows[f"{title}\nactivations"] = numbers["activation_sample"][index]
            rows[f"{title}\ngradients"] = numbers["gradient_sample"][index]
        return plots.histograms(rows, [f"layer {layer + 1}" for layer in range(self.layers)])


@functools.partial(jax.jit, static_argnums=0)
def _activations_and_gradients(
    g: str, inputs: jax.Array, kernels: list[jax.Array], top: jax.Array
) -> tuple[jax.Array, jax.Array]:
    function = activation(g)

    def forward(nudges: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, activations = inputs, []
        for kernel, nudge in zip(kernels, nudges, strict=True):
            x = function(x @ kernel) + nudge
            activations.append(x)
        return jnp.vdot(x, top), jnp.stack(activations)

    # The gradient with respect to an activation is that with respect to a nudge of it.
    nudges = jnp.zeros((len(kernels), *inputs.shape))
    gradients, activations = jax.grad(forward, has_aux=True)(nudges)
    return activations, gradients


study.register("initialization", Initialization)
