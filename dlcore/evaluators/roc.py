"""How well a yes-or-no answer separates, whatever the threshold: the ROC curve and its area."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from dlcore import data, plots
from dlcore.data.features import ClassLabel
from dlcore.errors import UsageError
from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import register
from dlcore.tasks import Predicts


@dataclasses.dataclass(frozen=True)
class ReceiverOperatingCharacteristic(Evaluator):
    """The share of positive examples found against that of false alarms, at every threshold."""

    ability: ClassVar[type] = Predicts
    needs: ClassVar[data.Needs] = {"label": (ClassLabel,)}

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        """The scalars "area_under_curve" and "best_threshold", the figure and the array "roc".

        The area is the probability that a positive example gets a larger answer than a negative one
        (Fawcett 2006); NaN where the split has one class only, or an answer is NaN. The best
        threshold is the one whose recall exceeds the rate of false alarms most (Youden 1950).

        Raises:
          UsageError: the learner's answer is not that of two classes.
        """
        del key
        probability = trained.rows(trained.learner.predict, split)  # type: ignore[attr-defined]
        if probability.shape[-1] != 2:
            raise UsageError(
                f"evaluator 'roc' judges two classes, and the task has {probability.shape[-1]}"
            )
        label = np.concatenate(
            [batch["label"][batch["mask"] > 0] for batch in trained.batches(split)]
        )
        if len(np.unique(label)) < 2 or np.isnan(probability).any():
            return Findings(scalars={"area_under_curve": float("nan")})
        false_alarms, recall, thresholds = roc_curve(label, probability[:, 1])
        area = float(roc_auc_score(label, probability[:, 1]))
        best = int(np.argmax(recall - false_alarms))
        curve = plots.Line(false_alarms, recall, f"area {area:.3f}", style="steps")
        chance = plots.Line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "chance", style="dashed")
        panel = plots.Panel(
            "receiver operating characteristic", [curve, chance], "false alarms", "recall"
        )
        return Findings(
            scalars={"area_under_curve": area, "best_threshold": float(thresholds[best])},
            figures={"roc": plots.line_panels([panel])},
            arrays={
                "roc": {"false_alarms": false_alarms, "recall": recall, "threshold": thresholds}
            },
        )


register("roc", ReceiverOperatingCharacteristic)
