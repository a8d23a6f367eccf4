"""Classification of what has an order and a length: texts, sounds, series."""

import dataclasses
from typing import Any, ClassVar, override

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import losses
from dlcore.data import Needs
from dlcore.data.features import Audio, ClassLabel, Series, Tokens
from dlcore.metrics import Mean, Metrics, SumMetric
from dlcore.tasks.classification import Classification
from dlcore.tasks.learner import Batch
from dlcore.tasks.registry import register


class MeanOfClasses(SumMetric):
    """The mean over the classes of each class's own mean; a class without examples is left out."""

    totals: jax.Array
    counts: jax.Array

    @classmethod
    def of(
        cls, values: jax.Array, labels: jax.Array, mask: jax.Array, num_classes: int
    ) -> "MeanOfClasses":
        """Sums `values` `[batch]` by class where `mask` `[batch]` is set."""
        members = jax.nn.one_hot(labels, num_classes) * (mask > 0)[:, None]
        return cls((members * values[:, None]).sum(0), members.sum(0))

    @override
    def compute(self) -> float:
        counts = np.asarray(self.counts)
        found = np.asarray(self.totals)[counts > 0] / counts[counts > 0]
        return float(found.mean()) if len(found) else float("nan")


@dataclasses.dataclass(frozen=True)
class SequenceClassification(Classification):
    """Classification by a model `__call__(sequence, lengths, train)`.

    A text is divided into tokens as the data's option `tokenization` says. What is equally long in
    all examples has that length.

    Attributes:
      model: the Linen module that is trained.
      criterion: the loss: see `Classification`.
      label_smoothing: share of the label's probability that is spread evenly over all classes, at
        least 0 and below 1.
      rubbish_penalty: penalty of a class of rubbish, to which no label belongs; 0 for none.
      auxiliary_weight: weight of the loss of each auxiliary head.

    Raises:
      UsageError: an option is out of range, or does not go with the criterion.
    """

    needs: ClassVar[Needs] = {"sequence": (Tokens, Series, Audio), "label": (ClassLabel,)}
    averages_views: ClassVar[bool] = False
    model_inputs: ClassVar[int | None] = 2

    @override
    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """A batch's sequence, and how many steps of each row are real."""
        sequence = batch["sequence"]
        if "sequence_length" in batch:
            return sequence, batch["sequence_length"]
        return sequence, jnp.full(sequence.shape[0], sequence.shape[1], jnp.int32)

    @override
    def metrics(self, outputs: Any, batch: Batch) -> Metrics:
        """Sums for "loss", "accuracy" and "balanced_accuracy", the mean of each class's recall.

        Of two classes "precision" and "recall", too: those of the second one.
        """
        found = dict(super().metrics(outputs, batch))
        labels, mask = batch["label"], batch["mask"]
        right = 1 - losses.zero_one(outputs, labels)
        found["balanced_accuracy"] = MeanOfClasses.of(right, labels, mask, outputs.shape[-1])
        if outputs.shape[-1] == 2:
            told = (outputs[:, 1] > outputs[:, 0]) & (mask > 0)
            found["precision"] = Mean.of(right, told.astype(jnp.float32))
            found["recall"] = Mean.of(right, jnp.where(mask > 0, labels, 0).astype(jnp.float32))
        return found


register("sequence_classification", SequenceClassification)
