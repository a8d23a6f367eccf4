"""Single units and small networks of them, as pure functions: what excites a unit, and how.

The usual unit sums w x + b, which is a `flax.linen.Dense`; the activation functions are in
`dlcore.nn.activations`. Here is everything else that the lectures call a unit.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlcore.nn.activations import hard_threshold

# A layer of threshold units: weights [inputs, units] and thresholds [units].
ThresholdLayer = tuple[np.ndarray, np.ndarray]


def with_constant_input(
    x: Float[Array, "*batch inputs"], value: float = 1.0
) -> Float[Array, "*batch inputs_and_one"]:
    """The inputs and a last one that is always `value`, whose weight serves as the bias.

    With -1 instead of 1 the weight is a threshold: it is what the sum has to reach (K).
    """
    return jnp.concatenate([x, jnp.full_like(x[..., :1], value)], axis=-1)


def threshold_units(
    x: Float[Array, "*batch inputs"],
    weights: Float[Array, "inputs units"],
    thresholds: Float[Array, " units"],
) -> Float[Array, "*batch units"]:
    """Units that answer 1 where the weighted sum of their inputs reaches the threshold, else 0.

    In the paper inputs are 0 or 1, excitatory synapses weigh 1, and one active inhibitory synapse
    silences the unit: a weight of minus the number of excitatory ones.

    Source: McCulloch and Pitts (1943), in the weighted form that P calls the linear threshold unit.
    """
    return hard_threshold(x @ weights - thresholds)


def threshold_network(
    x: Float[Array, "*batch inputs"], layers: Iterable[ThresholdLayer]
) -> Float[Array, "*batch units"]:
    """Layers of `threshold_units`, each fed by the one before."""
    for weights, thresholds in layers:
        x = threshold_units(x, jnp.asarray(weights, x.dtype), jnp.asarray(thresholds, x.dtype))
    return x


def _layer(weights: list[list[int]], thresholds: list[float]) -> ThresholdLayer:
    return np.array(weights, np.float32), np.array(thresholds, np.float32)


_AND = _layer([[1], [1]], [1.5])

# Networks of two inputs that are 0 or 1. No single unit computes XOR (Minsky and Papert, 1969); two
# layers do: (x1 or x2) and not (x1 and x2).
LOGIC_GATES: Mapping[str, tuple[ThresholdLayer, ...]] = {
    "and": (_AND,),
    "or": (_layer([[1], [1]], [0.5]),),
    "nor": (_layer([[-1], [-1]], [-0.5]),),
    "xor": (_layer([[1, -1], [1, -1]], [0.5, -1.5]), _AND),
}


def norm_excitation(
    x: Float[Array, "*batch inputs"], weights: Float[Array, "inputs units"]
) -> Float[Array, "*batch units"]:
    """What excites a unit by the norm of its weighted inputs, ||w * x||_2, in place of their sum.

    It is blind to signs: the same everywhere on an ellipse around the origin (K). At the origin,
    where it has a corner, its gradient is taken as 0.
    """
    # In units of the largest, whose squares stay in the range of floats.
    x_unit, weight_unit = _largest(x, -1), _largest(weights, 0)
    squares = jnp.square(x / x_unit[..., None]) @ jnp.square(weights / weight_unit)
    corner = squares == 0
    norm = jnp.where(corner, 0, jnp.sqrt(jnp.where(corner, 1, squares)))
    return norm * x_unit[..., None] * weight_unit


def _largest(x: jax.Array, axis: int) -> jax.Array:
    """The largest magnitude along an axis, 1 where all are 0; a constant for the gradient."""
    largest = jax.lax.stop_gradient(jnp.abs(x).max(axis))
    return jnp.where(largest > 0, largest, 1)


def squared_distances(
    x: Float[Array, "*batch inputs"], centers: Float[Array, "units inputs"]
) -> Float[Array, "*batch units"]:
    """||x - c||^2 of every center c: the penalty that a Euclidean RBF unit gives.

    Source: LeCun, Bottou, Bengio and Haffner (1998), eq. 7.
    """
    return jnp.square(x[..., None, :] - centers).sum(-1)


def gaussian_rbf(
    x: Float[Array, "*batch inputs"], centers: Float[Array, "units inputs"], width: float
) -> Float[Array, "*batch units"]:
    """exp(-||x - c||^2 / (2 width^2)): 1 at the unit's center, and fading around it.

    Source: Broomhead and Lowe (1988), "Multivariable functional interpolation and adaptive
    networks".
    """
    return jnp.exp(-squared_distances(x, centers) / (2 * width**2))


def collapse(
    layers: Iterable[tuple[jax.Array, jax.Array]],
) -> tuple[Float[Array, "inputs outputs"], Float[Array, " outputs"]]:
    """The one linear layer that a stack of linear layers is.

    "There is no point in composing linear units: their composition is a linear unit" (K).

    Args:
      layers: kernels `[inputs, outputs]` and biases `[outputs]`, from the bottom up.

    Returns:
      The kernel and the bias of the whole.
    """
    (kernel, bias), *others = layers
    for next_kernel, next_bias in others:
        kernel, bias = kernel @ next_kernel, bias @ next_kernel + next_bias
    return kernel, bias
