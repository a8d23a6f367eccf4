"""Classification of single-label examples by cross-entropy, and by the MAP criterion of 1998."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlcore.errors import UsageError
from dlcore.metrics import Mean, Metrics, Sum
from dlcore.tasks.base import Aux, Batch, Task, register


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """Softmax cross-entropy of the model's scores [batch, classes] with the labels.

    A positive `rubbish_penalty` j adds a class of rubbish, to which no label belongs and whose
    score is always -j. With scores that are the negatives of penalties (`lenet5`) the loss is then
    the MAP criterion of LeCun et al. (1998), eq. 9, in which j keeps the penalties from all growing
    at once.

    Attributes:
      model: the Linen module that is trained.
      label_smoothing: share of the label's probability that is spread evenly over all classes
        (Szegedy et al. 2016, section 7), at least 0 and below 1.
      rubbish_penalty: penalty j of the rubbish class; 0 for none.

    Raises:
      UsageError: an option is out of range.
    """

    label_smoothing: float = 0.0
    rubbish_penalty: float = 0.0

    watched_metric: ClassVar[str] = "accuracy"
    watched_mode: ClassVar[str] = "max"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(
                f"label_smoothing is at least 0 and below 1, not {self.label_smoothing}"
            )
        if self.rubbish_penalty < 0:
            raise UsageError(
                f"rubbish_penalty is positive, or 0 for none, not {self.rubbish_penalty}"
            )

    def init(self, rng: jax.Array, batch: Batch) -> dict[str, Any]:
        """Fresh variables of the model."""
        return dict(self.model.init(rng, batch["image"]))

    def loss(
        self, params: Any, model_state: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The summed loss, with the sums for "loss" and "accuracy"."""
        scores, model_state = self.model.apply(
            {"params": params, **model_state},
            batch["image"],
            train=True,
            rngs={"dropout": rng},
            mutable=list(model_state),
        )
        metrics = self._metrics(scores, batch)
        loss = metrics["loss"]
        return loss.total, Aux(count=loss.count, model_state=model_state, metrics=metrics)

    def evaluate(self, variables: Mapping[str, Any], batch: Batch) -> Metrics:
        """Sums for "loss", "accuracy" and "confusion" (row: label, column: prediction)."""
        scores: Any = self.model.apply(variables, batch["image"], train=False)
        confusion = confusion_matrix(scores, batch["label"], batch["mask"])
        return {**self._metrics(scores, batch), "confusion": Sum(confusion)}

    def predict(self, variables: Mapping[str, Any], batch: Batch) -> Float[Array, "batch classes"]:
        """Each class's probability, rubbish left out."""
        scores: Any = self.model.apply(variables, batch["image"], train=False)
        return jax.nn.softmax(scores.astype(jnp.float32))

    def _metrics(self, scores: jax.Array, batch: Batch) -> dict[str, Mean]:
        losses = self._losses(scores.astype(jnp.float32), batch["label"])
        correct = scores.argmax(-1) == batch["label"]
        return {
            "loss": Mean.of(losses, batch["mask"]),
            "accuracy": Mean.of(correct, batch["mask"]),
        }

    def _losses(
        self, scores: Float[Array, "batch classes"], labels: Int[Array, " batch"]
    ) -> Float[Array, " batch"]:
        classes = scores.shape[-1]
        targets = jax.nn.one_hot(labels, classes) * (1 - self.label_smoothing)
        targets = targets + self.label_smoothing / classes
        rivals = scores
        if self.rubbish_penalty:
            rivals = jnp.pad(scores, ((0, 0), (0, 1)), constant_values=-self.rubbish_penalty)
        return jax.nn.logsumexp(rivals, axis=-1) - (targets * scores).sum(-1)


def confusion_matrix(
    scores: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    mask: Float[Array, " batch"],
) -> Int[Array, "classes classes"]:
    """Counts of the unmasked examples: row their label, column the class of the largest score."""
    classes = scores.shape[-1]
    counts = jnp.zeros((classes, classes), jnp.int32)
    return counts.at[labels, scores.argmax(-1)].add(mask.astype(jnp.int32))


register("classification", Classification)
