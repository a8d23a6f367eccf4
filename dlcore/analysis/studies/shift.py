"""Convolution moves with a shift of its input, pooling forgets a small one (decks P, K and L).

P has the word for the first, covariance: a convolution is not invariant, as K says; it moves along.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.analysis.photograph import photograph
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.nn.pooling import lp_pool, max_pool
from dlcore.ranges import Natural, Positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of every layer: channels, and height and width of the kernels.
_CHANNELS, _SIZE = 8, 5
# Layers by name, with their strides.
_LAYERS = {"convolution": 1, "convolution of stride 2": 2, "locally connected": 1}


@dataclasses.dataclass(frozen=True)
class Shift(study.Study):
    """What random filters, and pooling after them, make of a photograph that moves to the right.

    The covariance error is how far a layer's output for the moved photograph is from its output for
    the photograph in place, moved likewise. The change is how far the pooled outputs (of the
    rectified convolution) are from each other. Both are shares of the norm.

    Attributes:
      size: height and width of the view of the photograph, in pixels.
      max_shift: the largest shift, in pixels.
      windows: sizes of the pooling windows to compare; 1 is no pooling.
      seed: of the filters.
    """

    size: Positive = 68
    max_shift: Positive = 8
    windows: tuple[Positive, ...] = (1, 2, 4, 8)
    seed: Natural = 0

    expectations = (
        Expectation("covariance_error_convolution", 1e-6, "min", "P: covariant, to rounding"),
        *study.near(
            "covariance_error_locally_connected", math.sqrt(2), 0.07, "two unrelated responses"
        ),
        Expectation("change_at_one_pixel_smallest_window", 0.5, "max", "without pooling"),
        Expectation("change_at_one_pixel_largest_window", 0.25, "min", "P K L: pooling forgets"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_shift > self.size - 6:
            raise UsageError(
                f"max_shift={self.max_shift}: it must be from 1 to size - 6 = {self.size - 6}"
            )
        if not self.windows or max(self.windows) > self.size - 4:
            raise UsageError(
                f"windows={self.windows}: each must be from 1 to size - 4 = {self.size - 4}"
            )

    def run(self) -> study.Numbers:
        """Errors and changes, an array each over the shifts 0, 1, ..., max_shift."""
        image = photograph(self.size + self.max_shift)[: self.size]
        starts = range(self.max_shift, -1, -1)
        views = np.stack([image[:, start : start + self.size] for start in starts])[..., None]
        responses = _responses(views, self._kernels())
        strides = zip(responses, _LAYERS.values(), strict=True)
        errors = [_covariance_errors(np.asarray(own), stride) for own, stride in strides]
        by_window, by_pooling = (
            [_changes(np.asarray(own)) for own in pooled]
            for pooled in _pooled(nn.relu(responses[0]), self.windows)
        )
        return {
            "shift": np.arange(self.max_shift + 1),
            "covariance_error": np.stack(errors),
            "change_by_window": np.stack(by_window),
            "change_by_pooling": np.stack(by_pooling),
            "covariance_error_convolution": errors[0].max(),
            "covariance_error_locally_connected": errors[-1].max(),
            "change_at_one_pixel_smallest_window": by_window[0][1],
            "change_at_one_pixel_largest_window": by_window[-1][1],
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """The layers, max pooling by window, and the largest window by kind of pooling."""
        windows = ["no pooling" if size == 1 else f"max {size}x{size}" for size in self.windows]
        panels = (
            ("a convolution moves with its image", "covariance_error", list(_LAYERS)),
            ("pooling forgets small shifts", "change_by_window", windows),
            ("kinds of pooling", "change_by_pooling", self._poolings()),
        )
        return plots.line_panels(
            [
                plots.Panel(
                    title,
                    [
                        plots.Line(numbers["shift"], row, label, "path")
                        for row, label in zip(numbers[key], labels, strict=True)
                    ],
                    x_label="shift in pixels",
                    y_label=key.split("_by_")[0].replace("_", " "),
                )
                for title, key, labels in panels
            ],
            columns=3,
        )

    def _kernels(self) -> list[np.ndarray]:
        """Random kernels of the layers that do not see an even brightness: each adds up to 0."""
        generator, kernels = np.random.default_rng(self.seed), []
        for name in _LAYERS:
            shape: tuple[int, ...] = (_SIZE, _SIZE, 1, _CHANNELS)
            if name == "locally connected":
                side = self.size - _SIZE + 1
                shape = (side, side, _SIZE**2, _CHANNELS)
            kernel = generator.standard_normal(shape, np.float32)
            kernels.append(kernel - kernel.mean((0, 1) if shape[2] == 1 else 2, keepdims=True))
        return kernels

    def _poolings(self) -> tuple[str, ...]:
        """The kinds of pooling, in the order of their numbers."""
        size = max(self.windows)
        return f"average {size}x{size}", f"L2 {size}x{size}", "global max", "global average"


@jax.jit
def _responses(views: jax.Array, kernels: list[jax.Array]) -> list[Any]:
    """The layers' outputs for the views, in their order."""
    responses = []
    for (name, stride), kernel in zip(_LAYERS.items(), kernels, strict=True):
        kind = nn.ConvLocal if name == "locally connected" else nn.Conv
        layer = kind(_CHANNELS, (_SIZE, _SIZE), stride, "VALID", use_bias=False)
        responses.append(layer.apply({"params": {"kernel": kernel}}, views))
    return responses


@functools.partial(jax.jit, static_argnums=1)
def _pooled(
    responses: jax.Array, windows: tuple[int, ...]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Max pooling by window, and the other kinds of pooling with the largest window."""
    largest = (max(windows),) * 2
    others = [
        nn.avg_pool(responses, largest, largest),
        lp_pool(responses, 2, largest),
        responses.max((1, 2)),
        responses.mean((1, 2)),
    ]
    return [max_pool(responses, (window, window)) for window in windows], others


def _covariance_errors(responses: np.ndarray, stride: int) -> np.ndarray:
    """For each shift the distance of the response from the first one moved; axis 0 is the shift."""
    width = responses.shape[2]
    return np.array(
        [
            _distance(moved[:, shift // stride :], responses[0][:, : width - shift // stride])
            for shift, moved in enumerate(responses)
        ]
    )


def _changes(pooled: np.ndarray) -> np.ndarray:
    """For each shift the distance of the pooled response from the first one."""
    return np.array([_distance(moved, pooled[0]) for moved in pooled])


def _distance(array: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(array - reference) / np.linalg.norm(reference))


study.register("shift", Shift)
