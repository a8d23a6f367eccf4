"""Yes or no: classification of two classes by one number, the log-odds of the second one."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, override

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore import losses
from dlcore.data import Needs
from dlcore.data.features import INPUTS, ClassLabel
from dlcore.errors import UsageError
from dlcore.metrics import Mean, Metrics
from dlcore.ranges import Range
from dlcore.tasks.learner import Batch, Variables
from dlcore.tasks.registry import register
from dlcore.tasks.supervised import Supervised


@dataclasses.dataclass(frozen=True)
class BinaryClassification(Supervised):
    """Binary cross-entropy of the model's one output, a log-odds, with the label.

    The second class is yes, the positive one: precision is the share of right answers among those
    of yes, recall the share of the positive examples that are found. What other thresholds would
    give is in the receiver operating characteristic (the evaluator `roc`).

    Attributes:
      model: the Linen module that is trained; its `num_classes` is 1.
      threshold: probability from which on the answer is yes, above 0 and below 1.

    Raises:
      UsageError: the threshold is out of range.
    """

    threshold: Annotated[float, Range(above=0, below=1)] = 0.5

    needs: ClassVar[Needs] = {"image": INPUTS, "label": (ClassLabel,)}
    watched_metric: ClassVar[str] = "accuracy"
    watched_mode: ClassVar[str] = "max"
    evaluators: ClassVar[tuple[str, ...]] = ("predictions", "roc")

    @classmethod
    @override
    def model_facts(cls, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        if facts.get("num_classes") != 2:
            raise UsageError(
                "task=binary_classification takes two classes, and the dataset has "
                f"{facts.get('num_classes', 'none')}: use classification"
            )
        return collections.ChainMap({"num_classes": 1}, facts)  # type: ignore[arg-type]

    def predict(self, variables: Variables, batch: Batch) -> Float[Array, "batch 2"]:
        """The probabilities of no and of yes."""
        log_odds = self.outputs(variables, batch).astype(jnp.float32)
        return jax.nn.sigmoid(jnp.concatenate([-log_odds, log_odds], axis=-1))

    def metrics(self, outputs: Any, batch: Batch) -> Metrics:
        """Sums for "loss" (in nats), "accuracy", "precision" and "recall"."""
        log_odds, mask = outputs[:, 0].astype(jnp.float32), batch["mask"]
        positive = batch["label"].astype(jnp.float32)
        found = (jax.nn.sigmoid(log_odds) >= self.threshold).astype(jnp.float32)
        return {
            "loss": Mean.of(
                losses.binary_cross_entropy(log_odds[:, None], positive[:, None]), mask
            ),
            "accuracy": Mean.of((found == positive) & ~jnp.isnan(log_odds), mask),
            "precision": Mean.of(positive, jnp.where(mask > 0, found, 0)),
            "recall": Mean.of(found, jnp.where(mask > 0, positive, 0)),
        }


register("binary_classification", BinaryClassification)
