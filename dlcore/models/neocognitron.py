"""The cognitron and the neocognitron: layers of cells that organize themselves.

Sources: Fukushima (1975), "Cognitron: a self-organizing multilayered neural network"; Fukushima
(1980), "Neocognitron: a self-organizing neural network model for a mechanism of pattern recognition
unaffected by shift in position". `dlcore.tasks.self_organization` learns by their rule.

An S-cell answers the pattern u in its field with

    r ((1 + sum a u) / (1 + r / (1 + r) b v) - 1)+,    v = sqrt(sum c u^2)

where a and b are learned, and c, the weights of the inhibiting V-cell, are not. A cell that is
reinforced, a by q c u and b by q v, has soon learned the pattern: it answers it with 1, and another
one with ((1 + r) s - r)+, s being the cosine between the two. The greater r, the more selective is
the cell. A C-cell pools S-cells of one kind, so that it matters less where the pattern is.

What is simplified:

- The equations are the neocognitron's for both networks, written as in Fukushima's later papers:
  that of 1980 doubles r / (1 + r) and adds q v / 2 to b, which is the same. The cognitron of 1975
  has a weighted mean as v, no r, and a lateral inhibition of its outputs.
- The papers' networks end in cells that answer one pattern each, for 5 patterns or so. Here a
  linear layer reads the last cells, and is trained with labels when they have been learned.
- Sizes are those of today's digits: the neocognitron's modules are two, and not three, and its
  second one has more planes. The cognitron has several cells at each place and not one.
- All weights c and d are Gaussians; the papers want them to fall from the center on.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlcore.errors import UsageError
from dlcore.models import registry
from dlcore.nn.backbone import stage
from dlcore.ranges import AboveZero, Positive

# The largest weight of a fresh cell: small, so that it answers only what no other cell does.
FIRST_WEIGHT = 1e-4
# Alpha of Fukushima (1980): the pooled answer at which a C-cell answers half of the most.
SATURATION = 0.5


class SimpleCells(nn.Module):
    """S-cells, of several kinds at each place: the kinds of a place see the same field.

    Parameters are `excitatory` (a) and `inhibitory` (b). A field that goes beyond the edge sees
    zeros there.

    Attributes:
      kinds: of cells at each place.
      size: height and width of a field.
      selectivity: r, above 0.
      shared: whether the cells of one kind have the same weights: a plane.
    """

    kinds: int
    size: int
    selectivity: float
    shared: bool

    @nn.compact
    def __call__(
        self, u: Float[Array, "batch height width planes"]
    ) -> Float[Array, "batch height width kinds"]:
        """What the cells answer, at least 0."""
        _, height, width, planes = u.shape
        field = (self.size, self.size, planes)
        places = () if self.shared else (height, width)
        first = nn.initializers.uniform(FIRST_WEIGHT)
        excitatory = self.param("excitatory", first, (*places, *field, self.kinds), jnp.float32)
        inhibitory = self.param(
            "inhibitory", nn.initializers.zeros, (*places, self.kinds), jnp.float32
        )
        if self.shared:
            excitation = _convolve(u, excitatory)
        else:
            seen = fields(u, self.size)
            excitatory = excitatory.reshape(height, width, -1, self.kinds)
            excitation = jnp.einsum("bhwi,hwik->bhwk", seen, excitatory)
        share = self.selectivity / (1 + self.selectivity)
        inhibition = share * inhibitory * inhibiting_cells(u, self.size)
        # (1 + e) / (1 + h) - 1 in a form that keeps the digits of small answers, which a fresh
        # cell's are: of two that round to the same both would be chosen.
        return self.selectivity * nn.relu((excitation - inhibition) / (1 + inhibition))

    def reinforcement(
        self,
        u: Float[Array, "height width planes"],
        chosen: Float[Array, "height width kinds"],
    ) -> dict[str, jax.Array]:
        """What chosen cells add to their weights: c u and v, like the parameters.

        Args:
          u: what the cells see.
          chosen: 1 for the cells that are reinforced and 0 for the others; with shared weights at
            most one of each kind.
        """
        planes = u.shape[-1]
        weights = jnp.asarray(np.repeat(decreasing(self.size) / planes, planes), jnp.float32)
        seen = weights * fields(u, self.size)
        inhibition = inhibiting_cells(u[None], self.size)[0]
        field = (self.size, self.size, planes, self.kinds)
        if not self.shared:
            excitatory = seen[..., None] * chosen[..., None, :]
            shape = (*u.shape[:2], *field)
            return {"excitatory": excitatory.reshape(shape), "inhibitory": inhibition * chosen}
        of_kinds = chosen.reshape(-1, self.kinds)
        place, any_place = of_kinds.argmax(0), of_kinds.max(0)
        excitatory = seen.reshape(-1, seen.shape[-1])[place].T * any_place
        return {
            "excitatory": excitatory.reshape(field),
            "inhibitory": inhibition.reshape(-1)[place] * any_place,
        }


class Cognitron(nn.Module):
    """Layers of S-cells, each with weights of its own; then a linear layer that reads the last one.

    Attributes:
      num_classes: number of classes.
      kinds: cells at each place, layer by layer.
      selectivity: r of each layer's cells.
      size: height and width of the fields.
      vicinity: height and width of the area around a place in which its cells compete; odd.
    """

    num_classes: Positive = 10
    kinds: tuple[Positive, ...] = (8, 8)
    selectivity: tuple[AboveZero, ...] = (4.0, 2.0)
    size: Positive = 5
    vicinity: Positive = 1

    def simple_cells(self) -> list[SimpleCells]:
        """The layers of S-cells, `layer1` first.

        Raises:
          UsageError: the options are not of equally many layers, or out of range.
        """
        return _layers(self.kinds, self.selectivity, self.size, self.vicinity, shared=False)

    def choose(
        self, responses: Float[Array, "height width kinds"]
    ) -> Float[Array, "height width kinds"]:
        """1 for the cells to reinforce: see `winners`."""
        return winners(responses, self.vicinity)

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch num_classes"]:
        """Logits for images; what is below 0 in them counts as 0."""
        del train
        x = nn.relu(x)
        for number, cells in enumerate(self.simple_cells(), start=1):
            x = cells.copy(name=f"layer{number}")(stage(self, f"input{number}", x))
        return _read_out(self, x)


class Neocognitron(nn.Module):
    """Modules of a layer of S-cells and a layer of C-cells; then a linear layer on the last one.

    Attributes:
      num_classes: number of classes.
      planes: of cells with the same weights, module by module.
      selectivity: r of each module's S-cells.
      windows: height and width of the area that a C-cell pools, module by module.
      stride: distance between the areas of two neighboring C-cells.
      size: height and width of the S-cells' fields.
      column: height and width of the area, through all planes, that has one candidate; odd.
    """

    num_classes: Positive = 10
    planes: tuple[Positive, ...] = (24, 64)
    selectivity: tuple[AboveZero, ...] = (2.0, 1.5)
    windows: tuple[Positive, ...] = (5, 7)
    stride: Positive = 2
    size: Positive = 5
    column: Positive = 5

    def simple_cells(self) -> list[SimpleCells]:
        """The layers of S-cells, `layer1` first.

        Raises:
          UsageError: the options are not of equally many modules, or out of range.
        """
        return _layers(self.planes, self.selectivity, self.size, self.column, shared=True)

    def choose(
        self, responses: Float[Array, "height width planes"]
    ) -> Float[Array, "height width planes"]:
        """1 for the cells to reinforce: see `seeds`."""
        return seeds(responses, self.column)

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch num_classes"]:
        """Logits for images; what is below 0 in them counts as 0."""
        del train
        if len(self.windows) != len(self.planes):
            raise UsageError(f"{len(self.planes)} layers take as many windows: {self.windows}")
        x = nn.relu(x)
        for number, cells in enumerate(self.simple_cells(), start=1):
            x = cells.copy(name=f"layer{number}")(stage(self, f"input{number}", x))
            x = stage(self, f"stage{number}", x)
            x = complex_cells(x, self.windows[number - 1], self.stride)
        return _read_out(self, x)


def decreasing(size: int) -> np.ndarray:
    """Fixed weights `[size, size]` that add up to 1: a Gaussian of deviation size / 4."""
    weights = _gaussian(size)
    return np.outer(weights, weights)


def fields(
    u: Float[Array, "*batch height width planes"], size: int
) -> Float[Array, "*batch height width inputs"]:
    """What each place's cells see: `size` x `size` cells of every plane, row by row."""
    height, width = u.shape[-3:-1]
    before = (size - 1) // 2
    edges = (before, size - 1 - before)
    u = jnp.pad(u, [*[(0, 0)] * (u.ndim - 3), edges, edges, (0, 0)])
    offsets = np.ndindex(size, size)
    shifted = [u[..., row : row + height, col : col + width, :] for row, col in offsets]
    return jnp.concatenate(shifted, axis=-1)


def inhibiting_cells(
    u: Float[Array, "batch height width planes"], size: int
) -> Float[Array, "batch height width 1"]:
    """V-cells: the root of the weighted mean square of what the S-cells of their place see."""
    power = jnp.square(u).mean(-1, keepdims=True)
    return jnp.sqrt(_convolve(power, decreasing(size)[..., None, None]))


def complex_cells(
    u: Float[Array, "batch height width planes"], window: int, stride: int
) -> Float[Array, "batch new_height new_width planes"]:
    """C-cells: each plane pooled by fixed weights, inhibited by the mean of all, and saturated.

    With s the plane's pooled answers and m their mean over the planes, x = ((1 + s) / (1 + m) - 1)+
    and the answer is x / (alpha + x).

    Raises:
      UsageError: the areas leave gaps.
    """
    if window < stride:
        raise UsageError(f"windows of {window} leave gaps at a stride of {stride}")
    for axis in (1, 2):
        u = _pool_along(u, axis, window, stride)
    mean = u.mean(-1, keepdims=True)
    x = nn.relu((u - mean) / (1 + mean))
    return x / (SATURATION + x)


def seeds(
    responses: Float[Array, "height width planes"], column: int
) -> Float[Array, "height width planes"]:
    """1 for the seed cells, 0 for the others: at most one in each plane.

    An S-column is an area of `column` x `column` places through all planes; there is one around
    each place. The cell that answers most strongly in a column is its candidate. A plane's seed is
    the strongest of the candidates in it.

    Source: Fukushima (1980), section 3.
    """
    strongest = responses.max(-1, keepdims=True)
    of_columns = _around(strongest, column, jax.lax.max, -jnp.inf)
    # A cell is the strongest of a column that has it if the weakest of these maxima is its own.
    weakest = _around(of_columns, column, jax.lax.min, jnp.inf)
    candidates = jnp.where((responses == weakest) & (responses > 0), responses, 0)
    flat = candidates.reshape(-1, candidates.shape[-1])
    seed = jax.nn.one_hot(flat.argmax(0), flat.shape[0], axis=0, dtype=responses.dtype)
    return (seed * (flat > 0)).reshape(responses.shape)


def winners(
    responses: Float[Array, "height width kinds"], vicinity: int
) -> Float[Array, "height width kinds"]:
    """1 for the cells that answer and have no stronger one in their vicinity, 0 for the others.

    Source: Fukushima (1975), the hypothesis of the abstract.
    """
    strongest = _around(responses.max(-1, keepdims=True), vicinity, jax.lax.max, -jnp.inf)
    return ((responses == strongest) & (responses > 0)).astype(responses.dtype)


def _layers(
    kinds: tuple[int, ...], selectivity: tuple[float, ...], size: int, area: int, shared: bool
) -> list[SimpleCells]:
    if area % 2 == 0:
        raise UsageError(f"cells compete in areas around a place: of odd size, not {area}")
    if len(kinds) != len(selectivity) or min(selectivity, default=0) <= 0:
        raise UsageError(
            f"{len(kinds)} layers take as many numbers above 0 as selectivity, not {selectivity}"
        )
    options = zip(kinds, selectivity, strict=True)
    return [SimpleCells(own, size, r, shared, parent=None) for own, r in options]


def _read_out(model: Cognitron | Neocognitron, x: jax.Array) -> jax.Array:
    # Cells learn by a rule of their own: the labels' gradient ends here.
    x = jax.lax.stop_gradient(x.reshape(x.shape[0], -1))
    return nn.Dense(model.num_classes, name="class_logits")(stage(model, "pooled", x))


def _gaussian(size: int) -> np.ndarray:
    weights = np.exp(-np.square((np.arange(size) - (size - 1) / 2) / (size / 4)) / 2)
    return (weights / weights.sum()).astype(np.float32)


def _convolve(u: jax.Array, kernel: jax.Array | np.ndarray) -> jax.Array:
    before = (kernel.shape[0] - 1) // 2
    edges = (before, kernel.shape[0] - 1 - before)
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        u, jnp.asarray(kernel, jnp.float32), (1, 1), (edges, edges), dimension_numbers=names
    )


def _pool_along(u: jax.Array, axis: int, window: int, stride: int) -> jax.Array:
    """One axis of the weighted pooling; windows lie around their cell's own `stride` places."""
    places = -(-u.shape[axis] // stride)
    before = (window - stride) // 2
    span = (places - 1) * stride + window
    edges = [(0, 0)] * u.ndim
    edges[axis] = (before, span - before - u.shape[axis])
    u = jnp.pad(u, edges)
    last = (places - 1) * stride + 1
    parts = [
        weight * jax.lax.slice_in_dim(u, first, first + last, stride, axis)
        for first, weight in enumerate(_gaussian(window))
    ]
    return sum(parts[1:], parts[0])


def _around(x: jax.Array, size: int, combine: Callable[..., Any], outside: float) -> jax.Array:
    """The largest or smallest number around each place."""
    return jax.lax.reduce_window(x, outside, combine, (size, size, 1), (1, 1, 1), "SAME")


_RULE = "learned by the rule of dlcore.tasks.self_organization"
_WITHOUT_GRADIENT = {
    f"layer{number}/{name}": _RULE for number in (1, 2) for name in ("excitatory", "inhibitory")
}

registry.register(
    "cognitron",
    Cognitron,
    example_inputs=(jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=121_354,
    source="Fukushima (1975); sizes are dlcore's",
    without_gradient=_WITHOUT_GRADIENT,
)
registry.register(
    "neocognitron",
    Neocognitron,
    example_inputs=(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),),
    output_shapes=(2, 10),
    parameter_count=70_458,
    source="Fukushima (1980); sizes are dlcore's",
    without_gradient=_WITHOUT_GRADIENT,
)
