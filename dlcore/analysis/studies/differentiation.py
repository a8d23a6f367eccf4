"""Ways of differentiating: differences, dual numbers, by hand and JAX (Krawiec's slides).

Each gives the gradient of one small network's error. The test compares them with symbolic
differentiation, too, for which it needs SymPy.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, override

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.autodiff import backprop, dual, numerical
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.ranges import Natural, Positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INPUTS, _OUTPUTS = 3, 2
_EXACT = ("dual", "layer_form", "index_form", "unit_form")
# The smallest is still thousands of units in the last place of a parameter.
_STEPS = np.logspace(-12, 0, 49)

# For NumPy, for dual numbers and for JAX alike; smooth, as the theory of differences wants it.
_ACTIVATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda a, numpy: numpy.tanh(a),
    "sigmoid": lambda a, numpy: 0.5 * (1 + numpy.tanh(0.5 * a)),
    "softplus": lambda a, numpy: numpy.logaddexp(a, 0.0),
}


@dataclasses.dataclass(frozen=True)
class Differentiation(study.Study):
    """How far each way of differentiating is from `jax.grad`, in float64.

    Attributes:
      hidden: units of each hidden layer.
      activation: of the hidden layers: tanh, sigmoid or softplus.
      examples: over which the error is summed.
      seed: of the network and of the examples.

    Raises:
      UsageError: an option is out of range.
    """

    hidden: tuple[Positive, ...] = (6, 6, 6, 6)
    activation: str = "tanh"
    examples: Positive = 10
    seed: Natural = 0

    # The best error of a difference is about the rounding unit to the power 1/2 or 2/3.
    expectations = (
        Expectation("exact_error", 1e-14, "min", "dual numbers and by hand: exact, to rounding"),
        Expectation("best_forward_error", 1e-9, "max", "Press et al. (2007), 5.7: about 1.5e-8"),
        Expectation("best_forward_error", 1e-6, "min", "Press et al. (2007), 5.7: about 1.5e-8"),
        Expectation("best_central_error", 1e-12, "max", "Press et al. (2007), 5.7: about 3.7e-11"),
        Expectation("best_central_error", 1e-9, "min", "Press et al. (2007), 5.7: about 3.7e-11"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden:
            raise UsageError(f"hidden={self.hidden}: it must be one or more numbers of units")
        if self.activation not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise UsageError(f"unknown activation {self.activation!r}: it is one of {known}")

    @override
    def run(self) -> study.Numbers:
        """The gradients of the whole network and the errors of each way.

        Returns:
          "gradient_WAY" `[parameters]` for each way; "step" `[steps]` with "forward_error" and
          "central_error", relative to the gradient's largest entry; "depth" `[layers]` with
          "depth_error_WAY", the same for the networks with the first hidden layers only;
          "exact_error", the largest of these but those of differences.
        """
        network = self.network(len(self.hidden))
        gradients = self._gradients(network)
        numbers: study.Numbers = {f"gradient_{way}": own for way, own in gradients.items()}
        theta, error = _flat(network.layers), self._error(network, np)
        for way, difference in (
            ("forward", numerical.forward_difference),
            ("central", numerical.central_difference),
        ):
            numbers[f"{way}_error"] = np.asarray(
                [_distance(difference(error, theta, step), gradients["jax"]) for step in _STEPS]
            )
        depths = range(1, len(self.hidden) + 1)
        by_depth = [self._gradients(self.network(depth)) for depth in depths]
        for way in gradients:
            if way != "jax":
                numbers[f"depth_error_{way}"] = np.asarray(
                    [_distance(own[way], own["jax"]) for own in by_depth]
                )
        exact = [numbers[f"depth_error_{way}"].max() for way in gradients if way in _EXACT]
        return numbers | {
            "parameters": theta.size,
            "exact_error": max(exact),
            "best_forward_error": numbers["forward_error"].min(),
            "best_central_error": numbers["central_error"].min(),
            "step": _STEPS,
            "depth": np.asarray(depths),
            "forward_best_step": float(_STEPS[numbers["forward_error"].argmin()]),
            "central_best_step": float(_STEPS[numbers["central_error"].argmin()]),
        }

    @override
    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """The error by step size, and by depth."""
        step, depth = numbers["step"], numbers["depth"]
        # A difference of rounding only is drawn at the rounding unit.
        least = np.finfo(np.float64).eps
        ways = [name.removeprefix("depth_error_") for name in numbers if "depth_error" in name]
        return plots.line_panels(
            [
                plots.Panel(
                    "Differences, by step",
                    [
                        plots.Line(step, numbers["forward_error"], "forward difference"),
                        plots.Line(step, numbers["central_error"], "central difference"),
                    ],
                    x_label="step",
                    y_label="relative error of the gradient",
                    log_x=True,
                    log_y=True,
                ),
                plots.Panel(
                    "All ways, by depth",
                    [
                        plots.Line(
                            depth,
                            np.maximum(numbers[f"depth_error_{way}"], least),
                            _LABELS[way],
                            style="path",
                            color=color,
                        )
                        for color, way in enumerate(ways)
                    ],
                    x_label="hidden layers",
                    log_y=True,
                ),
            ]
        )

    def network(self, depth: int) -> backprop.Network:
        """The network of the first `depth` hidden layers."""
        sizes = (_INPUTS, *self.hidden[:depth], _OUTPUTS)
        return backprop.initialize(sizes, self.seed, self.activation)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs `[examples, 3]` and targets `[examples, 2]`."""
        rng = np.random.default_rng(self.seed + 1)
        return rng.normal(size=(self.examples, _INPUTS)), rng.normal(size=(self.examples, _OUTPUTS))

    def _gradients(self, network: backprop.Network) -> dict[str, np.ndarray]:
        """The gradient by all parameters in one array, by way."""
        theta, error = _flat(network.layers), self._error(network, np)
        examples = self.data()
        with jax.enable_x64(True):
            by_jax = np.asarray(jax.jit(jax.grad(self._error(network, jnp)))(theta))
        return {
            "forward": numerical.forward_difference(error, theta),
            "central": numerical.central_difference(error, theta),
            "dual": dual.gradient(error, theta),
            "layer_form": _flat(backprop.layer_form(network, *examples)),
            # Its error has no factor of a half.
            "index_form": _flat(backprop.index_form(network, *examples)) / 2,
            "unit_form": _flat(backprop.unit_form(network, *examples)),
            "jax": by_jax,
        }

    def _error(self, network: backprop.Network, numpy: Any) -> Callable[[Any], Any]:
        """Half the squared distance to the targets, as a function of all parameters in one array.

        Written without the passes of `backprop`, for arrays of NumPy and JAX and dual numbers.
        """
        inputs, targets = self.data()

        def error(theta: Any) -> Any:
            signals, start = inputs, 0
            for number, (weights, biases) in enumerate(network.layers, 1):
                middle = start + weights.size
                stop = middle + biases.size
                own = theta[start:middle].reshape(*weights.shape)
                signals = (signals.reshape(len(inputs), 1, -1) * own).sum(-1) + theta[middle:stop]
                if number < len(network.layers):
                    signals = _ACTIVATIONS[self.activation](signals, numpy)
                start = stop
            return 0.5 * ((signals - targets) ** 2).sum()

        return error


_LABELS = {
    "forward": "forward difference",
    "central": "central difference",
    "dual": "dual numbers",
    "layer_form": "by hand: layers",
    "index_form": "by hand: indices",
    "unit_form": "by hand: units",
}


def _flat(layers: Sequence[backprop.Layer]) -> np.ndarray:
    return np.concatenate([parameters.ravel() for layer in layers for parameters in layer])


def _distance(gradient: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(gradient - reference).max() / np.abs(reference).max())


study.register("differentiation", Differentiation)
