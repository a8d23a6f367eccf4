"""What single units answer at each point of the plane: by a sum, a norm or a distance."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.nn import units
from dlcore.nn.activations import maxout, sigmoid
from dlcore.ranges import AboveZero, Range, Real

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WEIGHTS = np.array([[1.0], [2.0]], np.float32)
_CENTER = np.array([[0.5, -0.5]], np.float32)


@dataclasses.dataclass(frozen=True)
class Units(study.Study):
    """Contours of the sum, sigmoid, threshold, maxout, norm and radial basis units.

    All weigh the two inputs by 1 and 2; the radial basis unit has its center at (0.5, -0.5).

    Attributes:
      bias: weight of the constant input of the units that sum.
      width: width of the radial basis unit.
      points: points on a side of the square from -2 to 2.
    """

    bias: Real = 0.5
    width: AboveZero = 0.7
    points: Annotated[int, Range(least=2)] = 101

    expectations = (
        *study.near("threshold_area", 9, 0.1, "geometry, what a line cuts off the square"),
        *study.near("norm_area", math.pi / 2, 0.1, "geometry, an ellipse of half-axes 1 and 1/2"),
        *study.near("radial_basis_area", math.pi * 0.49, 0.1, "geometry, a disk of radius 0.7"),
    )

    def run(self) -> study.Numbers:
        """The outputs `[points, points]` over the plane; `axis` is either coordinate.

        The scalars are areas: where the threshold unit answers 1, where the norm is below 1, and
        where the radial basis unit answers more than exp(-1/2), as it does within its width.
        """
        axis = np.linspace(-2, 2, self.points, dtype=np.float32)
        plane = np.stack(np.meshgrid(axis, axis), axis=-1)
        outputs = jax.device_get(jax.jit(self._outputs)(plane))
        regions = {
            "threshold": outputs["threshold"] == 1,
            "norm": outputs["norm"] < 1,
            "radial_basis": outputs["radial basis"] > math.exp(-1 / 2),
        }
        return {
            "axis": axis,
            **{name: values[..., 0] for name, values in outputs.items()},
            # A point stands for the square around it, halved at an edge and quartered in a corner.
            **{
                f"{name}_area": np.trapezoid(np.trapezoid(np.float64(region[..., 0]), axis), axis)
                for name, region in regions.items()
            },
        }

    def _outputs(self, plane: jax.Array) -> dict[str, jax.Array]:
        """What each unit answers to points `[..., 2]`: `[..., 1]`."""
        weights = jnp.asarray(_WEIGHTS)
        with_bias = jnp.concatenate([weights, jnp.full((1, 1), self.bias)])
        excitation = units.with_constant_input(plane) @ with_bias
        return {
            "sum": excitation,
            "sigmoid": sigmoid(excitation),
            "threshold": units.threshold_units(plane, weights, jnp.array([-self.bias])),
            # The second piece: x2 weighs -1, and there is no bias.
            "maxout": maxout(jnp.concatenate([excitation, -plane[..., 1:]], axis=-1)),
            "norm": units.norm_excitation(plane, weights),
            "radial basis": units.gaussian_rbf(plane, jnp.asarray(_CENTER), self.width),
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """A panel for each unit."""
        axis = numbers["axis"]
        return plots.contour_panels(
            [
                plots.Contour(
                    name, axis, axis, values, x_label="x1", y_label="x2", filled=name == "threshold"
                )
                for name, values in numbers.items()
                if np.ndim(values) == 2
            ]
        )


study.register("units", Units)
