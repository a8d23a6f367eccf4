"""What the 1x1 bottlenecks of an inception module save (Szegedy et al., 2015)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import counts, study
from dlcore.errors import UsageError
from dlcore.models.googlenet import TABLE, Inception

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The layers by their names in the module, in the order of the paper's table.
_LAYERS = {
    "branch1": "1x1",
    "branch2_reduce": "1x1 in front of the 3x3",
    "branch2": "3x3",
    "branch3_reduce": "1x1 in front of the 5x5",
    "branch3": "5x5",
    "branch4": "pooling, and 1x1 behind it",
}
# Those whose results stand beside each other at the end.
_BRANCHES = ("branch1", "branch2", "branch3", "branch4")


@dataclasses.dataclass(frozen=True)
class InceptionModule(study.Study):
    """Parameters and operations of an inception module with and without its 1x1 bottlenecks.

    Without them (figure 2a of the paper) the 3x3 and 5x5 convolutions read all channels of the
    input, and the pooling hands all of them on: the next module has more to read.

    Attributes:
      module: of GoogLeNet, "3a" to "5b".
    """

    module: str = "3a"

    expectations = (
        *study.near("millions_with", 128, 0.5, "Szegedy et al. (2015), table 1"),
        *study.near("parameters_with", 163_696, 0, "by hand, from the table's channels"),
        *study.near("parameters_without", 387_296, 0, "by hand, from the table's channels"),
        *study.near("multiply_adds_with", 784 * 163_328, 0, "by hand, 28x28 positions"),
        *study.near("multiply_adds_without", 784 * 387_072, 0, "by hand, 28x28 positions"),
        *study.near("outputs_with", 256, 0, "Szegedy et al. (2015), table 1"),
        *study.near("outputs_without", 64 + 128 + 32 + 192, 0, "by hand, all inputs are pooled"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.module not in _rows():
            known = ", ".join(_rows())
            raise UsageError(f"module={self.module!r}: it is one of {known}")

    def run(self) -> study.Numbers:
        """Both kinds' numbers by layer, `[layers]`, and for the whole module."""
        inputs, size, widths = _rows()[self.module]
        images = jax.ShapeDtypeStruct((1, size, size, inputs), jnp.float32)
        numbers: study.Numbers = {"inputs": inputs, "size": size}
        for kind in ("with", "without"):
            module = Inception(widths, bottlenecks=kind == "with")
            apply = functools.partial(module.init_with_output, train=False)
            output, variables = jax.eval_shape(apply, jax.random.key(0), images)
            layers = [variables["params"].get(name, {}) for name in _LAYERS]
            weights, biases = (
                np.array([layer[part].size if layer else 0 for layer in layers])
                for part in ("kernel", "bias")
            )
            # A bias for each channel; the pooling alone has none and leaves all.
            channels = np.where(np.isin(list(_LAYERS), _BRANCHES), biases, 0)
            channels[-1] = channels[-1] or inputs
            total = counts.of_model(module, images)
            numbers |= {
                f"layer_parameters_{kind}": weights + biases,
                f"layer_multiply_adds_{kind}": size**2 * weights,
                f"layer_outputs_{kind}": channels,
                f"parameters_{kind}": total.parameters,
                f"multiply_adds_{kind}": total.multiply_adds,
                f"millions_{kind}": total.multiply_adds / 1e6,
                f"outputs_{kind}": output.shape[-1],
            }
        return numbers

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """A table: the layers, and for both kinds parameters, operations and output channels."""
        quantities = {
            "parameters": "parameters",
            "multiply_adds": "multiply-adds",
            "outputs": "channels of the output",
        }
        groups = {
            title: {
                f"{kind} bottlenecks": numbers[f"layer_{quantity}_{kind}"]
                for kind in ("with", "without")
            }
            for quantity, title in quantities.items()
        }
        size = numbers["size"]
        title = f"inception {self.module}, which reads {size}x{size}x{numbers['inputs']}"
        return plots.summed_table(title, list(_LAYERS.values()), groups)


def _rows() -> Mapping[str, tuple[int, int, tuple[int, ...]]]:
    """For each module the channels that it reads, height and width, and its channels."""
    rows, inputs = {}, 192
    for size, modules in zip((28, 14, 7), TABLE, strict=True):
        for name, widths in modules.items():
            rows[name] = inputs, size, widths
            first, _, second, _, third, projected = widths
            inputs = first + second + third + projected
    return rows


study.register("inception_module", InceptionModule)
