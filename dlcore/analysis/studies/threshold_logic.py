"""Logic by threshold units: what one of them can compute, and what takes two layers.

McCulloch and Pitts (1943) compute with such units; Minsky and Papert (1969) say what a single one
cannot.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.nn.units import LOGIC_GATES, threshold_network
from dlcore.ranges import Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class ThresholdLogic(study.Study):
    """AND, OR, NOR and XOR by threshold units, and how many functions a single unit computes.

    Attributes:
      inputs: number of inputs of that single unit, 1 to 4.
    """

    inputs: Annotated[int, Range(least=1, most=4)] = 2

    expectations = study.near("functions_of_one_unit", 14, 0, "Muroga (1971): all 16 but XOR, XNOR")

    def run(self) -> study.Numbers:
        """Measures what the gates answer, and how far one unit gets.

        - each gate's answers to (0, 0), (0, 1), (1, 0) and (1, 1);
        - the same gates over a square of real inputs, for the figure;
        - how many Boolean functions of the inputs one unit computes, of how many there are.
        """
        axis = np.linspace(-0.5, 1.5, 201, dtype=np.float32)
        plane = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)
        corners = jnp.asarray(_corners(2))
        numbers: study.Numbers = {"axis": axis, "corners": np.asarray(corners)}
        for name, network in LOGIC_GATES.items():
            numbers[name] = np.asarray(threshold_network(corners, network)[:, 0])
            numbers[f"{name} plane"] = np.asarray(threshold_network(plane, network)[..., 0])
        return {
            **numbers,
            "functions": 2**2**self.inputs,
            "functions_of_one_unit": _count_computable(self.inputs),
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """A panel for each gate: where it fires, and the four inputs."""
        x, y = numbers["corners"].T
        panels = []
        for name in LOGIC_GATES:
            fires = numbers[name] > 0
            panels.append(
                plots.Contour(
                    name.upper(),
                    numbers["axis"],
                    numbers["axis"],
                    numbers[f"{name} plane"],
                    (
                        plots.Line(x[fires], y[fires], "answer 1", "points", 1),
                        plots.Line(x[~fires], y[~fires], "answer 0", "points", 0),
                    ),
                    "x1",
                    "x2",
                    filled=True,
                )
            )
        return plots.contour_panels(panels)


def _corners(inputs: int) -> np.ndarray:
    """Every input of zeros and ones, float32 `[2^inputs, inputs]`."""
    return np.array(list(itertools.product((0, 1), repeat=inputs)), np.float32)


def _count_computable(inputs: int) -> int:
    """How many different functions the units with small whole weights compute.

    For up to four inputs, whole weights from -3 to 3 reach every function that any weights reach
    (Muroga, 1971, "Threshold logic and its applications").
    """
    weights = np.array(list(itertools.product(range(-3, 4), repeat=inputs)), np.float32)
    sums = _corners(inputs) @ weights.T
    thresholds = np.arange(-3 * inputs, 3 * inputs + 2) - 0.5
    answers = sums[:, :, None] > thresholds
    return len(np.unique(answers.reshape(2**inputs, -1), axis=1).T)


study.register("threshold_logic", ThresholdLogic)
