"""Back-propagation by hand: the equations of three lectures for one multilayer perceptron.

    a_l = W_l x_{l-1} + b_l        excitations of layer l = 1 ... L
    x_l = f(a_l)                   signals; x_0 is the input and x_L the output

Three ways to write the backward pass, each as its lecture does:

- `layer_form` (Pérez): h_l and g_l, the error's derivatives by a layer's excitations and signals;
- `index_form` (Laurent and Guillozet): delta and s, index by index, for regression;
- `unit_form` (Krawiec, Deledalle): delta_i, unit by unit.

Source: Rumelhart, Hinton and Williams (1986). Everything is float64 NumPy.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dlcore.errors import UsageError


class Activation(NamedTuple):
    """A function of an excitation and its derivative, both element by element."""

    function: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]


def _sigmoid(a: np.ndarray) -> np.ndarray:
    # 1 / (1 + exp(-a)), written so that no exponential overflows.
    return 0.5 * (1 + np.tanh(0.5 * a))


ACTIVATIONS = {
    "linear": Activation(lambda a: a, np.ones_like),
    "sigmoid": Activation(_sigmoid, lambda a: _sigmoid(a) * (1 - _sigmoid(a))),
    "tanh": Activation(np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "relu": Activation(lambda a: np.maximum(a, 0), lambda a: np.where(a > 0, 1.0, 0.0)),
    "leaky_relu": Activation(lambda a: np.maximum(a, 0.1 * a), lambda a: np.where(a > 0, 1.0, 0.1)),
    "elu": Activation(
        lambda a: np.where(a > 0, a, np.expm1(np.minimum(a, 0))), lambda a: np.exp(np.minimum(a, 0))
    ),
    "softplus": Activation(lambda a: np.logaddexp(a, 0), _sigmoid),
}


class Layer(NamedTuple):
    """A layer's parameters, or the error's derivatives by them."""

    weights: np.ndarray  # [outputs, inputs]
    biases: np.ndarray  # [outputs]


@dataclasses.dataclass(frozen=True)
class Network:
    """A multilayer perceptron and its error.

    Attributes:
      layers: from the first to the last.
      hidden: activation of the hidden layers, a name of `ACTIVATIONS`.
      output: activation of the last layer: a name of `ACTIVATIONS`, whose error is then half the
        squared distance to the target, or "softmax", whose error is the cross-entropy.

    Raises:
      UsageError: an unknown activation, or layers that do not fit each other.
    """

    layers: Sequence[Layer]
    hidden: str = "tanh"
    output: str = "linear"

    def __post_init__(self) -> None:
        for role, name in (("hidden", self.hidden), ("output", self.output)):
            known = [*ACTIVATIONS, "softmax"] if role == "output" else [*ACTIVATIONS]
            if name not in known:
                raise UsageError(
                    f"unknown {role} activation {name!r}: it is one of {', '.join(known)}"
                )
        if not self.layers:
            raise UsageError("a network needs at least one layer")
        width = self.layers[0].weights.shape[1]
        for number, (weights, biases) in enumerate(self.layers, 1):
            if weights.shape != (biases.size, width):
                raise UsageError(
                    f"layer {number} has weights of shape {weights.shape}: with {width} signals "
                    f"before it and {biases.size} biases it must be {(biases.size, width)}"
                )
            width = biases.size

    def forward(self, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The forward pass of one example.

        Args:
          x: the input, `[inputs]`.

        Returns:
          The excitations a_1 ... a_L (so that `a[l - 1]` is a_l) and the signals x_0 ... x_L.
        """
        excitations, signals = [], [x]
        for number, (weights, biases) in enumerate(self.layers, 1):
            a = weights @ signals[-1] + biases
            name = self.output if number == len(self.layers) else self.hidden
            excitations.append(a)
            signals.append(
                np.exp(_log_softmax(a)) if name == "softmax" else ACTIVATIONS[name].function(a)
            )
        return excitations, signals

    def derivative(self, layer: int, a: np.ndarray) -> np.ndarray:
        """f'(a_l) of layer l = 1 ... L.

        Softmax is not element by element, but behind it the cross-entropy's derivative cancels its
        own: dE/da_L = x_L - y, as if f' were 1 and the error half the squared distance.
        """
        name = self.output if layer == len(self.layers) else self.hidden
        return ACTIVATIONS["linear" if name == "softmax" else name].derivative(a)

    def error(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """The error, summed over examples.

        Args:
          inputs: `[examples, inputs]`.
          targets: `[examples, outputs]`; for "softmax" one-hot, or any probabilities.
        """
        total = 0.0
        for x, y in zip(inputs, targets, strict=True):
            excitations, signals = self.forward(x)
            if self.output == "softmax":
                total -= (y * _log_softmax(excitations[-1])).sum()
            else:
                total += 0.5 * ((signals[-1] - y) ** 2).sum()
        return float(total)


def _log_softmax(a: np.ndarray) -> np.ndarray:
    # The largest first: what is left does not depend on how large they are.
    shifted = a - a.max()
    return shifted - np.log(np.exp(shifted).sum())


def initialize(
    sizes: Sequence[int], seed: int, hidden: str = "tanh", output: str = "linear"
) -> Network:
    """A network with random parameters.

    Args:
      sizes: the numbers of inputs, of units of each hidden layer and of outputs.
      seed: of the parameters: weights of standard deviation 1/sqrt(inputs of the layer), biases of
        standard deviation 0.1.
      hidden: see `Network`.
      output: see `Network`.
    """
    rng = np.random.default_rng(seed)
    layers = [
        Layer(rng.normal(0, fan_in**-0.5, (fan_out, fan_in)), rng.normal(0, 0.1, fan_out))
        for fan_in, fan_out in itertools.pairwise(sizes)
    ]
    return Network(layers, hidden, output)


def layer_form(network: Network, inputs: np.ndarray, targets: np.ndarray) -> list[Layer]:
    """The gradient of the error, summed over examples, as Pérez writes it.

        g_L = dE/dx_L = x_L - y
        for l = L ... 1:
            h_l = f'(a_l) * g_l
            g_{l-1} = W_l^T h_l
            dE/dW_l = h_l x_{l-1}^T

    The slides have no biases: dE/db_l = h_l. For softmax with the cross-entropy see
    `Network.derivative`.

    Args:
      network: of any depth.
      inputs: `[examples, inputs]`.
      targets: `[examples, outputs]`.

    Returns:
      For each layer the derivatives by its weights and biases.
    """
    gradient = _zeros(network)
    for x_0, y in zip(inputs, targets, strict=True):
        a, x = network.forward(x_0)
        g = x[-1] - y
        for layer in range(len(network.layers), 0, -1):
            h = network.derivative(layer, a[layer - 1]) * g
            g = network.layers[layer - 1].weights.T @ h
            gradient[layer - 1].weights[:] += np.outer(h, x[layer - 1])
            gradient[layer - 1].biases[:] += h
    return gradient


def index_form(network: Network, inputs: np.ndarray, targets: np.ndarray) -> list[Layer]:
    """The gradient of sum_i |Y_i - f(X_i)|^2 as Laurent and Guillozet write it, for regression.

        delta_{k,i} = -2 (Y_{i,k} - f_k(X_i)) psi'(a_k^(L+1))
        s_{m,i} = phi'(a_m^(L)) sum_k W_{k,m}^(L+1) delta_{k,i}
        dR_i/dW_{k,m}^(L+1) = delta_{k,i} h_m^(L)
        dR_i/dW_{m,l}^(L) = s_{m,i} h_l^(L-1)

    The slides stop at the last hidden layer and say that one "can go on": the s of an earlier layer
    comes from the s behind it as that one comes from delta. Their L counts the hidden layers.

    Their error has no factor of a half: this is twice what `layer_form` gives, whose arguments and
    result it shares.

    Raises:
      UsageError: the output is "softmax", which is no regression.
    """
    if network.output == "softmax":
        raise UsageError("index_form is for regression: the output cannot be softmax")
    passes = [network.forward(x) for x in inputs]
    # Of each layer [examples, units].
    a = [np.stack(layer) for layer in zip(*(a for a, _ in passes), strict=True)]
    h = [np.stack(layer) for layer in zip(*(h for _, h in passes), strict=True)]
    last = len(network.layers)
    s = -2 * (targets - h[last]) * network.derivative(last, a[last - 1])  # This one is delta.
    gradient = [Layer(np.einsum("ik,im->km", s, h[last - 1]), s.sum(0))]
    for layer in range(last - 1, 0, -1):
        weighted = np.einsum("km,ik->im", network.layers[layer].weights, s)
        s = network.derivative(layer, a[layer - 1]) * weighted
        gradient.insert(0, Layer(np.einsum("im,il->ml", s, h[layer - 1]), s.sum(0)))
    return gradient


def unit_form(network: Network, inputs: np.ndarray, targets: np.ndarray) -> list[Layer]:
    """The gradient of the error as Krawiec and Deledalle write it, unit by unit.

        delta_i = g'(a_i) (y_i - d_i)               of an output unit
        delta_i = g'(a_i) sum_l w_{l,i} delta_l     of any other, over its successors l
        dE/dw_{i,j} = sum over examples of delta_i h_j

    Krawiec's slide prints `delta_i = sum_j w_(i->j) delta_j` without g', which holds for linear
    units only; the corrected equation is Deledalle's. A bias is the weight of a constant signal of
    1. Arguments and result are those of `layer_form`.
    """
    gradient = _zeros(network)
    last = len(network.layers)
    for x, d in zip(inputs, targets, strict=True):
        a, h = network.forward(x)
        delta = h[last] - d
        for layer in range(last, 0, -1):
            if layer < last:
                outgoing = network.layers[layer].weights.T
                delta = np.array([_weighted_sum(own, delta) for own in outgoing])
            delta = network.derivative(layer, a[layer - 1]) * delta
            for i, delta_i in enumerate(delta):
                gradient[layer - 1].biases[i] += delta_i
                for j, h_j in enumerate(h[layer - 1]):
                    gradient[layer - 1].weights[i, j] += delta_i * h_j
    return gradient


def _weighted_sum(weights: np.ndarray, deltas: np.ndarray) -> float:
    return sum(weight * delta for weight, delta in zip(weights, deltas, strict=True))


def _zeros(network: Network) -> list[Layer]:
    return [
        Layer(np.zeros_like(weights), np.zeros_like(biases)) for weights, biases in network.layers
    ]
