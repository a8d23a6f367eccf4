"""How far stacked convolutions see, and what that costs (deck K)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.expectation import Expectation
from dlcore.nn.geometry import Window, parameter_count, receptive_field
from dlcore.ranges import Natural, Positive, Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class ReceptiveField(study.Study):
    """Receptive fields of stacked convolutions, by the formula and measured, and their cost.

    A unit sees the inputs that its gradient reaches. Deck K compares one 7x7 convolution with two
    of 3x3; it takes three, with 27/49 of the weights. They see the edge of their field less than
    its middle, though, as fewer paths lead there (Luo, Li, Urtasun and Zemel, 2016).

    Attributes:
      depth: layers of the deepest stack, at least 3.
      channels: of every layer, for the cost.
      draws: random stacks whose gradients are averaged.
      seed: of their kernels.
    """

    depth: Annotated[int, Range(least=3)] = 6
    channels: Positive = 64
    draws: Positive = 10_000
    seed: Natural = 0

    expectations = (
        Expectation("field_error", 0, "min", "the formula"),
        *study.near("field_of_three_3x3", 7, 0, "K, corrected: three, not two, for 7x7"),
        *study.near("weights_three_3x3_over_one_7x7", 27 / 49, 1e-6, "K: fewer weights"),
        *study.near(
            "gradient_edge_over_middle", 7**-0.5, 0.03, "Luo et al. (2016), 1 path against 7"
        ),
    )

    def stacks(self) -> dict[str, list[Window]]:
        """The stacks that are compared, each of `depth` layers; a 2x2 pooling counts as one."""
        turns = [Window(3), Window(2, stride=2)]
        return {
            "3x3": [Window(3)] * self.depth,
            "5x5": [Window(5)] * self.depth,
            "3x3 and 2x2 pooling": [turns[layer % 2] for layer in range(self.depth)],
            "3x3, dilation doubled": [Window(3, dilation=2**layer) for layer in range(self.depth)],
        }

    def run(self) -> study.Numbers:
        """Fields by depth, weights by field, and the gradient over the field of 7x7.

        `field_error` is the largest difference of a measured field from the formula's.
        """
        depth = np.arange(1, self.depth + 1)
        by_formula = [
            [receptive_field(layers[:count]).kernel_size for count in depth]
            for layers in self.stacks().values()
        ]
        field = 2 * depth + 1
        weights = [
            parameter_count((f, f), self.channels, self.channels, use_bias=False)
            for f in field.tolist()
        ]
        generator = np.random.default_rng(self.seed)
        measured = np.stack([measured_fields(own) for own in self.stacks().values()])
        stacked = gradient_profile(generator, (3, 3, 3), self.draws)
        return {
            "depth": depth,
            "field_by_formula": np.array(by_formula),
            "field_measured": measured,
            "field_error": np.abs(measured - by_formula).max(),
            "field": field,
            "weights_one_layer": np.array(weights),
            "weights_stacked": weights[0] * depth,
            "offset": np.arange(-3, 4),
            "gradient_one_layer": gradient_profile(generator, (7,), self.draws),
            "gradient_stacked": stacked,
            "gradient_edge_over_middle": stacked[0] / stacked[3],
            "field_of_two_3x3": by_formula[0][1],
            "field_of_three_3x3": by_formula[0][2],
            "weights_three_3x3_over_one_7x7": 3 * weights[0] / weights[2],
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Fields by depth, weights by field, and the gradient over a field."""
        fields = []
        for color, name in enumerate(self.stacks()):
            for key, label, style in (("by_formula", name, "dashed"), ("measured", "", "points")):
                values = numbers[f"field_{key}"][color]
                fields.append(plots.Line(numbers["depth"], values, label, style, color))

        def compared(x: str, y: str) -> list[plots.Line]:
            return [
                plots.Line(numbers[x], numbers[f"{y}_stacked"], "3x3 stacked", "path", 0),
                plots.Line(numbers[x], numbers[f"{y}_one_layer"], "one layer", "path", 1),
            ]

        title = "field: formula (dashed), measured (points)"
        return plots.line_panels(
            [
                plots.Panel(title, fields, "layers", "pixels", log_y=True),
                plots.Panel(
                    f"its cost, {self.channels} channels",
                    compared("field", "weights"),
                    "pixels of the field",
                    "weights",
                ),
                plots.Panel(
                    "gradient over a 7x7 field",
                    compared("offset", "gradient"),
                    "pixels from the middle",
                    "root mean square gradient",
                ),
            ],
            columns=3,
        )


def measured_fields(layers: Sequence[Window]) -> np.ndarray:
    """Inputs from the first to the last that the gradient of a unit reaches, by its layer.

    The layers are convolutions along one axis with kernels of ones, so that nothing cancels.
    """
    top = receptive_field(layers)

    def units(x: Any) -> jax.Array:
        seen = []
        for size, stride, dilation in layers:
            conv = nn.Conv(1, size, stride, "VALID", kernel_dilation=dilation, use_bias=False)
            x = conv.apply({"params": {"kernel": jnp.ones((size, 1, 1))}}, x)
            seen.append(x[x.shape[0] // 2, 0])
        return jnp.stack(seen)

    # Room for three units on top: the middle one's field is not cut by an edge.
    inputs = jnp.ones((top.kernel_size + 2 * top.stride, 1))
    reached = np.asarray(jax.jit(jax.jacrev(units))(inputs))[..., 0] != 0
    return reached.shape[1] - reached.argmax(1) - reached[:, ::-1].argmax(1)


def gradient_profile(
    generator: np.random.Generator, sizes: Sequence[int], draws: int
) -> np.ndarray:
    """Root mean square of a unit's gradient at each input of its field, along one axis.

    The layers are linear with normal kernels of variance 1 / size.
    """
    gradients = np.ones((draws, 1))
    for size in sizes:
        kernels = generator.standard_normal((draws, size)) / np.sqrt(size)
        pairs = zip(gradients, kernels, strict=True)
        gradients = np.stack([np.convolve(*pair) for pair in pairs])
    return np.sqrt(np.square(gradients).mean(0))


study.register("receptive_field", ReceptiveField)
