"""Regression: numbers predicted from an image or from a row of a table."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from dlcore import losses
from dlcore.data import Needs
from dlcore.data.features import INPUTS, Numbers
from dlcore.errors import UsageError
from dlcore.metrics import Mean, Metrics, RSquared
from dlcore.tasks.learner import Batch
from dlcore.tasks.registry import register
from dlcore.tasks.supervised import Supervised


@dataclasses.dataclass(frozen=True)
class Regression(Supervised):
    """The model's outputs [batch, outputs] against numbers of that shape.

    With `linear_units` and half the square loss: least squares; with the recipe's `weight_decay`
    ridge regression, with its `l1` the lasso.

    Attributes:
      model: the Linen module that is trained.
      criterion: the loss: square, half_square, mean_square (over the outputs), absolute.

    Raises:
      UsageError: no such criterion.
    """

    criterion: str = "square"

    needs: ClassVar[Needs] = {"image": INPUTS, "numbers": (Numbers,)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.criterion not in losses.OF_OUTPUTS:
            raise UsageError(
                f"unknown criterion {self.criterion!r}: it is one of {', '.join(losses.OF_OUTPUTS)}"
            )

    def metrics(self, outputs: Any, batch: Batch) -> Metrics:
        """Sums for "loss", "mean_absolute_error" and "r_squared"."""
        outputs, targets, mask = outputs.astype(jnp.float32), batch["numbers"], batch["mask"]
        error = losses.absolute(outputs, targets) / targets.shape[-1]
        return {
            "loss": Mean.of(losses.OF_OUTPUTS[self.criterion](outputs, targets), mask),
            "mean_absolute_error": Mean.of(error, mask),
            "r_squared": RSquared.of(outputs, targets, mask),
        }


register("regression", Regression)
