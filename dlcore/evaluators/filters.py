"""The kernels of the first convolution as pictures."""

import dataclasses
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from dlcore import plots
from dlcore.data.features import Image
from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import register


@dataclasses.dataclass(frozen=True)
class Filters(Evaluator):
    """A figure of the kernels that see the image itself, where the model has such."""

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        """The figure "filters"; nothing where no convolution sees an image of 1 or 3 channels."""
        del split, key
        kernel = first_image_kernel(trained)
        return (
            Findings() if kernel is None else Findings(figures={"filters": plots.filters(kernel)})
        )


def first_image_kernel(trained: Trained) -> np.ndarray | None:
    """The kernel `[height, width, channels, features]` that sees the image, if there is one.

    That is the first one that the model makes with as many inputs as the image has channels.
    """
    feature = trained.dataset.features.get("image")
    if not isinstance(feature, Image) or feature.shape[2] not in (1, 3):
        return None
    found: list[tuple[str, ...]] = []

    def init(batch: Any) -> None:
        shown = trained.dataset.transform(batch, None, False)
        variables = trained.learner.init(jax.random.key(0), shown)
        # In the order in which they were made, which JAX's trees do not keep.
        for path, array in flax.traverse_util.flatten_dict(variables["params"]).items():
            if array.ndim == 4 and array.shape[2] == feature.shape[2] and array.shape[0] > 1:
                found.append(path)

    jax.eval_shape(init, trained.dataset.example_batch(1))
    if not found:
        return None
    return np.asarray(flax.traverse_util.flatten_dict(trained.variables["params"])[found[0]])


register("filters", Filters)
