"""Networks of one hidden layer, fitted by least squares in float64.

Gradient descent would stop at an error of its own, which hides how near the network can come.
"""

from typing import NamedTuple, Self

import numpy as np


class HiddenLayer(NamedTuple):
    """f(x) = v tanh(x W + b) + c.

    Attributes:
      kernel: W, `[inputs, width]`.
      bias: b, `[width]`.
      output: v and, last, c: `[width + 1]`.
    """

    kernel: np.ndarray
    bias: np.ndarray
    output: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The function at points `[points, inputs]`."""
        return self.features(x) @ self.output

    def features(self, x: np.ndarray) -> np.ndarray:
        """What the output is linear in: the hidden units and a 1, `[points, width + 1]`."""
        return np.column_stack([np.tanh(x @ self.kernel + self.bias), np.ones(len(x))])

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """Derivatives of f by the parameters, in the order of `moved`: `[points, parameters]`."""
        features = self.features(x)
        slopes = (1 - features[:, :-1] ** 2) * self.output[:-1]
        by_kernel = (x[:, :, None] * slopes[:, None]).reshape(len(x), -1)
        return np.concatenate([by_kernel, slopes, features], axis=1)

    def moved(self, step: np.ndarray) -> Self:
        """The network whose parameters differ by a step `[parameters]`."""
        width = self.bias.size
        parts = np.split(step, [self.kernel.size, self.kernel.size + width])
        return type(self)(
            self.kernel + parts[0].reshape(self.kernel.shape),
            self.bias + parts[1],
            self.output + parts[2],
        )


def random_network(
    x: np.ndarray, y: np.ndarray, width: int, generator: np.random.Generator
) -> HiddenLayer:
    """Units that turn over at random points of the unit cube, their output fitted to `y`.

    Each is as steep as fits its share of the cube.
    """
    inputs = x.shape[1]
    directions = generator.standard_normal((inputs, width))
    kernel = directions / np.linalg.norm(directions, axis=0) * 2 * width ** (1 / inputs)
    middles = generator.uniform(size=(inputs, width))
    network = HiddenLayer(kernel, -(kernel * middles).sum(0), np.zeros(width + 1))
    # Small singular values are left out: they would make huge weights that cancel.
    output = np.linalg.lstsq(network.features(x), y, rcond=1e-6)[0]
    return network._replace(output=output)


def grown(network: HiddenLayer, wider: HiddenLayer) -> HiddenLayer:
    """The same function with the width of another network, whose last units come in at weight 0."""
    width = network.bias.size
    output = np.insert(network.output, width, np.zeros(wider.bias.size - width))
    kernel = np.concatenate([network.kernel, wider.kernel[:, width:]], axis=1)
    return HiddenLayer(kernel, np.concatenate([network.bias, wider.bias[width:]]), output)


def levenberg_marquardt(
    network: HiddenLayer, x: np.ndarray, y: np.ndarray, iterations: int
) -> HiddenLayer:
    """Lowers the sum of squared errors by damped Gauss-Newton steps; it never rises.

    Source: Levenberg (1944) and Marquardt (1963), with the damping multiplied by 4 where a step
    does not lower the sum, and halved where it does.
    """
    damping, residual, jacobian = 1e-2, network(x) - y, network.jacobian(x)
    for _ in range(iterations):
        normal = jacobian.T @ jacobian + damping * np.eye(jacobian.shape[1])
        candidate = network.moved(-np.linalg.solve(normal, jacobian.T @ residual))
        error = candidate(x) - y
        if error @ error < residual @ residual:
            network, residual, jacobian = candidate, error, candidate.jacobian(x)
            damping = max(damping / 2, 1e-14)
        else:
            damping = min(4 * damping, 1e6)
    return network
