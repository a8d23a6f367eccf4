"""How much of its accuracy a classifier loses when images are shifted, beside a baseline."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dlcore import data, losses, plots
from dlcore.data.features import ClassLabel, Image
from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import register
from dlcore.ranges import Positive
from dlcore.tasks import Predicts, Variables

_DIRECTIONS = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.int32)


@dataclasses.dataclass(frozen=True)
class ShiftTolerance(Evaluator):
    """Accuracy on images that are shifted down, up, right and left, as prepared for the model.

    The baseline is the classifier that the recipe needs under the name "baseline".

    Attributes:
      pixels: of the shift.

    Raises:
      UsageError: there is no shift.
    """

    pixels: Positive = 4

    ability: ClassVar[type] = Predicts
    needs: ClassVar[data.Needs] = {"image": (Image,), "label": (ClassLabel,)}
    needed: ClassVar[tuple[str, ...]] = ("baseline",)

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        """The scalars below, the array and the figure "shift_tolerance".

        "shifted_accuracy" is the mean over the four directions, "shift_loss" by how much it is
        below the accuracy in place, "baseline_shift_loss" the same of the baseline, and
        "shift_loss_ratio" the first loss divided by the second: NaN where the baseline loses
        nothing. The figure has half the shift, too.
        """
        del key
        shifts = np.unique([0, self.pixels // 2, self.pixels])
        own = self._accuracies(trained, split, shifts)
        baseline = self._accuracies(trained.needed["baseline"], split, shifts)
        loss, baseline_loss = (float(accuracy[0] - accuracy[-1]) for accuracy in (own, baseline))
        lines = [
            plots.Line(shifts, accuracy, label, "path")
            for accuracy, label in ((own, "trained"), (baseline, "baseline"))
        ]
        panel = plots.Panel("shifted images", lines, "shift in pixels", "accuracy")
        return Findings(
            scalars={
                "shifted_accuracy": float(own[-1]),
                "shift_loss": loss,
                "baseline_shift_loss": baseline_loss,
                "shift_loss_ratio": loss / baseline_loss if baseline_loss > 0 else float("nan"),
            },
            arrays={"shift_tolerance": {"shift": shifts, "own": own, "baseline": baseline}},
            figures={"shift_tolerance": plots.line_panels([panel])},
        )

    def _accuracies(self, trained: Trained, split: str, shifts: np.ndarray) -> np.ndarray:
        """The accuracy at each shift, the mean over the directions."""
        right = _right_answers(trained.learner, self.pixels)
        return np.array(
            [
                np.mean(
                    [
                        trained.rows(right, split, shift * direction).mean()
                        for direction in (_DIRECTIONS if shift else _DIRECTIONS[:1])
                    ]
                )
                for shift in shifts
            ]
        )


def shifted(
    images: Float[Array, "batch height width channels"], offset: Int[Array, " 2"], most: int
) -> Float[Array, "batch height width channels"]:
    """Images moved by so many rows down and columns to the right; their edges are repeated.

    Args:
      images: to move.
      offset: rows and columns, negative to go up and left.
      most: the greatest move in any direction.
    """
    edges = ((0, 0), (most, most), (most, most), (0, 0))
    start = (0, most - offset[0], most - offset[1], 0)
    return jax.lax.dynamic_slice(jnp.pad(images, edges, mode="edge"), start, images.shape)


def _right_answers(learner: Any, most: int) -> Callable[..., jax.Array]:
    """A function that says for each example of a batch, shifted, whether it is told rightly."""

    def right(variables: Variables, batch: Any, offset: jax.Array) -> jax.Array:
        moved = {**batch, "image": shifted(batch["image"], offset, most)}
        return 1 - losses.zero_one(learner.predict(variables, moved), batch["label"])

    return right


register("shift_tolerance", ShiftTolerance)
