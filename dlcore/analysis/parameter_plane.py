"""The error landscape: the loss over a plane through the space of a model's parameters.

Source: Li et al. (2018), Visualizing the loss landscape of neural nets, section 4 (random
directions, filter normalization); Garipov et al. (2018), Loss surfaces, mode connectivity and fast
ensembling of DNNs, appendix (the plane of three points).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlcore.errors import UsageError

_AXIS = "points"

# Parameters and a batch to the loss summed over its examples and their number.
SummedLoss = Callable[[Any, Mapping[str, Any]], tuple[jax.Array, jax.Array]]


class Plane(NamedTuple):
    """The points `origin + x first + y second`: three pytrees of the same structure."""

    origin: Any
    first: Any
    second: Any

    def at(self, x: Any, y: Any) -> Any:
        """The parameters at (x, y)."""
        return jax.tree.map(
            lambda origin, first, second: origin + x * first + y * second,
            self.origin,
            self.first,
            self.second,
        )


def random_plane(params: Any, generator: np.random.Generator) -> Plane:
    """A plane through trained parameters along two random, filter-normalized directions.

    Every filter of a direction (the weights into one output: a slice along a kernel's last axis)
    is drawn from a Gaussian and given the norm of the same filter of `params`. So a unit of the
    plane's axes means the same relative change for filters of any size, and landscapes of models
    that compute the same with other scales (ReLU layers, normalized layers) can be compared. What
    has no filters, biases and the parameters of a normalization, stays as it is.

    Args:
      params: the origin.
      generator: draws the directions.
    """

    def direction(weights: Any) -> np.ndarray:
        weights = np.asarray(weights)
        if weights.ndim < 2:
            return np.zeros_like(weights)
        noise = generator.standard_normal(weights.shape)
        axes = tuple(range(weights.ndim - 1))
        noise *= np.sqrt(np.square(weights).sum(axes) / np.square(noise).sum(axes))
        return noise.astype(weights.dtype)

    return Plane(params, jax.tree.map(direction, params), jax.tree.map(direction, params))


def plane_through(points: Iterable[Any]) -> tuple[Plane, np.ndarray]:
    """The plane through three points, with axes of unit length at right angles.

    Args:
      points: three pytrees of parameters.

    Returns:
      The plane, whose origin is the first point and whose first axis leads to the second; and the
      positions of the three on it, float64 `[3, 2]`, in distances in parameter space.

    Raises:
      UsageError: the points differ in structure or shapes, or lie on a line.
    """
    origin, second, third = (jax.tree.map(np.asarray, point) for point in points)
    if len({_shapes(origin), _shapes(second), _shapes(third)}) > 1:
        raise UsageError("three points of one plane must be parameters of the same model")
    aside, above = (jax.tree.map(np.subtract, point, origin) for point in (second, third))
    width = math.sqrt(_dot(aside, aside))
    slant = _dot(aside, above) / width if width else 0.0
    height = math.sqrt(max(_dot(above, above) - slant**2, 0.0))
    # Below this the third point's distance from the line is rounding.
    if height <= 1e-5 * max(width, abs(slant)) or not width:
        raise UsageError("the three points lie on a line: they span no plane")
    x_axis = jax.tree.map(lambda own: own / width, aside)
    y_axis = jax.tree.map(lambda own, along: (own - slant * along) / height, above, x_axis)
    return Plane(origin, x_axis, y_axis), np.array([[0, 0], [width, 0], [slant, height]])


def _shapes(params: Any) -> tuple[Any, ...]:
    return jax.tree.structure(params), *map(np.shape, jax.tree.leaves(params))


def _dot(first: Any, second: Any) -> float:
    """The inner product of two pytrees, summed in float64."""
    products = jax.tree.map(
        lambda a, b: np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64)), first, second
    )
    return float(sum(jax.tree.leaves(products)))


def losses(
    loss: SummedLoss, plane: Plane, positions: np.ndarray, batches: Iterable[Mapping[str, Any]]
) -> np.ndarray:
    """The mean loss at positions of a plane, shared out among this process's devices.

    One program is compiled. Each device takes its positions one after another, so that it holds no
    more than one point's parameters besides the plane.

    Args:
      loss: `(params, batch) -> (sum, count)`, pure.
      plane: where to look.
      positions: (x, y) of each, `[..., 2]`.
      batches: examples, in batches of one shape.

    Returns:
      float64 `[...]`.
    """
    mesh = Mesh(np.asarray(jax.local_devices()), (_AXIS,))
    split, whole = PartitionSpec(_AXIS), PartitionSpec()
    flat = np.reshape(positions, (-1, 2)).astype(np.float32)
    # Every device gets equally many; the last one fills up.
    filled = np.pad(flat, ((0, -len(flat) % mesh.size), (0, 0)), mode="edge")

    def at_positions(plane: Plane, positions: jax.Array, batch: Any) -> Any:
        return jax.lax.map(
            lambda position: loss(plane.at(position[0], position[1]), batch), positions
        )

    evaluate = jax.jit(
        jax.shard_map(
            at_positions,
            mesh=mesh,
            in_specs=(whole, split, whole),
            out_specs=split,
            # A model's own scans start from constants, which the checked mode takes for an error.
            check_vma=False,
        )
    )
    plane = jax.device_put(plane, NamedSharding(mesh, whole))
    on_devices = jax.device_put(filled, NamedSharding(mesh, split))
    total, count = np.zeros(len(filled)), np.zeros(len(filled))
    for batch in batches:
        sums, counts = jax.device_get(evaluate(plane, on_devices, dict(batch)))
        total += sums
        count += counts
    return (total / count)[: len(flat)].reshape(np.shape(positions)[:-1])
