"""Multitask learning (Caruana 1997): two heads over one trunk, their losses weighted."""

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore import losses
from dlcore.data import Needs
from dlcore.data.bundled import SEVEN_SEGMENT_CODE
from dlcore.data.features import INPUTS, ClassLabel
from dlcore.errors import UsageError
from dlcore.metrics import Mean, Metrics
from dlcore.ranges import NotNegative
from dlcore.tasks.learner import Batch, Variables
from dlcore.tasks.multi_label import tag_metrics
from dlcore.tasks.registry import register
from dlcore.tasks.supervised import Supervised


@runtime_checkable
class TwoHeads(Protocol):
    """A model of class scores and tag log-odds."""

    num_classes: int
    num_tags: int


@dataclasses.dataclass(frozen=True)
class Multitask(Supervised):
    """A digit's class and the segments of the display that shows it, learned together.

    The loss is `class_weight` times the softmax cross-entropy of the class head plus `tag_weight`
    times the binary cross-entropy of the seven segments.

    Attributes:
      model: the Linen module that is trained; it gives class scores [batch, 10] and tag log-odds
        [batch, 7], as `multitask_mlp` does.
      class_weight: of the class head's loss.
      tag_weight: of the segment head's loss.

    Raises:
      UsageError: a weight is negative or no number, or both are zero, or a head has another size.
    """

    class_weight: NotNegative = 1.0
    tag_weight: NotNegative = 1.0

    needs: ClassVar[Needs] = {"image": INPUTS, "label": (ClassLabel,)}
    watched_metric: ClassVar[str] = "accuracy"
    watched_mode: ClassVar[str] = "max"
    evaluators: ClassVar[tuple[str, ...]] = ("predictions",)
    model_protocol: ClassVar[type] = TwoHeads
    model_inputs: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.class_weight + self.tag_weight:
            raise UsageError("class_weight and tag_weight are both 0: nothing would be learned")
        if not isinstance(self.model, TwoHeads):
            return  # The check of a recipe's parts says so.
        heads = (self.model.num_classes, self.model.num_tags)
        if heads != SEVEN_SEGMENT_CODE.shape:
            raise UsageError(f"multitask learns 10 digits and 7 segments, not {heads}")

    def metrics(self, outputs: Any, batch: Batch) -> Metrics:
        """Sums for "loss", "accuracy" of the class, and the segments' "tag_" metrics."""
        scores, logits = (output.astype(jnp.float32) for output in outputs)
        labels, mask = batch["label"], batch["mask"]
        of_class = Mean.of(losses.cross_entropy(scores, labels), mask)
        of_tags = tag_metrics(logits, jnp.asarray(SEVEN_SEGMENT_CODE)[labels], mask)
        total = self.class_weight * of_class.total + self.tag_weight * of_tags["loss"].total
        return {
            "loss": Mean(total, of_class.count),
            "accuracy": Mean.of(1 - losses.zero_one(scores, labels), mask),
            **{f"tag_{name}": metric for name, metric in of_tags.items()},
        }

    def predict(self, variables: Variables, batch: Batch) -> Float[Array, "batch classes"]:
        """Each class's probability."""
        scores, _ = self.outputs(variables, batch)
        return jax.nn.softmax(scores.astype(jnp.float32))


register("multitask", Multitask)
