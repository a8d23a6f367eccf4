"""A classifier's answers for every example, and the confusion matrix that they make."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np

from dlcore import data, plots
from dlcore.data.features import ClassLabel
from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import register
from dlcore.tasks import Predicts


@dataclasses.dataclass(frozen=True)
class Predictions(Evaluator):
    """The probabilities that a classifier gives, kept with the labels, and where it errs."""

    ability: ClassVar[type] = Predicts
    needs: ClassVar[data.Needs] = {"label": (ClassLabel,)}

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        """The arrays "SPLIT_outputs" and the figure "confusion_matrix".

        The arrays are "label" and "prediction", int `[examples]`, "probability", float32
        `[examples, classes]`, and "confusion", int `[classes, classes]` (row: label, column:
        prediction). A prediction of NaN is no class: it is -1, and in no cell of the matrix.
        """
        del key
        predict = trained.learner.predict  # type: ignore[attr-defined]
        probability = trained.rows(predict, split)
        label = np.concatenate(
            [batch["label"][batch["mask"] > 0] for batch in trained.batches(split)]
        )
        prediction = np.where(np.isnan(probability).any(-1), -1, probability.argmax(-1))
        confusion = confusion_matrix(label, prediction, probability.shape[-1])
        outputs = {
            "label": label,
            "prediction": prediction,
            "probability": probability,
            "confusion": confusion,
        }
        names = trained.dataset.features["label"].names  # type: ignore[attr-defined]
        return Findings(
            arrays={f"{split}_outputs": outputs},
            figures={"confusion_matrix": plots.confusion_matrix(confusion, names)},
        )


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class was taken for each, int64 `[classes, classes]`; the row is the label.

    A prediction of -1, which is no class, is left out.
    """
    counts = np.zeros((num_classes, num_classes), np.int64)
    told = predictions >= 0
    np.add.at(counts, (labels[told], predictions[told]), 1)
    return counts


register("predictions", Predictions)
