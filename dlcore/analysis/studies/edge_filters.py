"""Two edge filters made by hand, on a photograph: the simple example of a convolution (deck P)."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.analysis.photograph import photograph
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.nn.pooling import max_pool
from dlcore.ranges import Positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sobel's operator: how fast brightness grows to the right, and down, smoothed across.
_RIGHTWARD = np.outer([1, 2, 1], [-1, 0, 1])
FILTERS = {"vertical": _RIGHTWARD, "horizontal": _RIGHTWARD.T}


@dataclasses.dataclass(frozen=True)
class EdgeFilters(study.Study):
    """A convolutional layer with two kernels made by hand, for vertical and for horizontal edges.

    The photograph goes through convolution, rectifier and max pooling, as in a network.

    Attributes:
      size: pixels of the photograph's height and width.
      window: height and width of a pooling window, at most size - 2.
    """

    size: Positive = 160
    window: Positive = 4

    expectations = (
        Expectation("error", 1e-5, "min", "Sobel's sums of differences written out, to rounding"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window > self.size - 2:
            raise UsageError(
                f"window={self.window}: it must be from 1 to size - 2 = {self.size - 2}"
            )

    def run(self) -> study.Numbers:
        """The photograph and, for each filter, what it makes of it: filtered, rectified, pooled.

        `error` is the largest difference from Sobel's operator written without a convolution.
        """
        image = photograph(self.size)
        kernel = np.stack(list(FILTERS.values()), axis=-1).astype(np.float32)
        layer = nn.Conv(len(FILTERS), (3, 3), padding="VALID", use_bias=False)
        filtered: Any = layer.apply(
            {"params": {"kernel": kernel[:, :, None]}}, image[None, :, :, None]
        )
        rectified = nn.relu(filtered)
        pooled = max_pool(rectified, (self.window, self.window))
        numbers: study.Numbers = {"photograph": image}
        for index, name in enumerate(FILTERS):
            for kind, array in (
                ("filtered", filtered),
                ("rectified", rectified),
                ("pooled", pooled),
            ):
                numbers[f"{name}_{kind}"] = np.asarray(array[0, :, :, index])
            numbers[f"{name}_mean_response"] = jnp.abs(filtered[..., index]).mean()
        errors = [
            np.abs(numbers["vertical_filtered"] - _sobel(image)).max(),
            np.abs(numbers["horizontal_filtered"] - _sobel(image.T).T).max(),
        ]
        return {**numbers, "error": max(errors)}

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """A row for each filter: the photograph, filtered, rectified and pooled."""
        side = self.size - 2
        tiles, captions = [], []
        for name in FILTERS:
            limit = np.abs(numbers[f"{name}_filtered"]).max()
            pooled = numbers[f"{name}_pooled"].repeat(self.window, 0).repeat(self.window, 1)
            enlarged = np.zeros((side, side), np.float32)
            enlarged[: len(pooled), : len(pooled)] = pooled
            tiles += [
                numbers["photograph"][1:-1, 1:-1],
                0.5 + numbers[f"{name}_filtered"] / (2 * limit),
                numbers[f"{name}_rectified"] / limit,
                enlarged / limit,
            ]
            captions += ["photograph", f"{name} edges", "rectified", "pooled"]
        return plots.image_grid(np.stack(tiles), captions, columns=4)


def _sobel(image: np.ndarray) -> np.ndarray:
    """How fast the brightness grows to the right, smoothed from top to bottom."""
    growth = image[:, 2:] - image[:, :-2]
    return growth[:-2] + 2 * growth[1:-1] + growth[2:]


study.register("edge_filters", EdgeFilters)
