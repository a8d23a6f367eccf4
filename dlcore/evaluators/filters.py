"""The kernels of the first convolution as pictures."""

import dataclasses
from typing import Any

import jax
import numpy as np

from dlcore import plots
from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import register


@dataclasses.dataclass(frozen=True)
class Filters(Evaluator):
    """A figure of the kernels that see the image itself, where the model has such."""

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        """The figure "filters"; nothing where no convolution sees an image of 1 or 3 channels."""
        del split, key
        kernel = first_image_kernel(trained.variables["params"])
        return (
            Findings() if kernel is None else Findings(figures={"filters": plots.filters(kernel)})
        )


def first_image_kernel(params: Any) -> np.ndarray | None:
    """The kernel `[height, width, channels, features]` that sees the image, if there is one."""
    for array in jax.tree.leaves(params):
        if np.ndim(array) == 4 and array.shape[2] in (1, 3) and array.shape[0] > 1:
            return np.asarray(array)
    return None


register("filters", Filters)
