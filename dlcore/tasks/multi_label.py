"""Multi-label learning: several yes-or-no answers at once, as an image's tags or a code's bits."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore import losses
from dlcore.data import Needs
from dlcore.data.features import INPUTS, Tags
from dlcore.metrics import Mean, Metrics
from dlcore.tasks.learner import Batch, Variables
from dlcore.tasks.registry import register
from dlcore.tasks.supervised import Supervised


@dataclasses.dataclass(frozen=True)
class MultiLabel(Supervised):
    """Binary cross-entropy of each output [batch, tags], a log-odds, with a tag of 0 or 1.

    The outputs are independent given the input; what ties the tags of a structured output, R^n to
    {0, 1}^m, is the trunk that they share.

    Attributes:
      model: the Linen module that is trained.
    """

    needs: ClassVar[Needs] = {"image": INPUTS, "tags": (Tags,)}
    watched_metric: ClassVar[str] = "exact_match"
    watched_mode: ClassVar[str] = "max"

    def predict(self, variables: Variables, batch: Batch) -> Float[Array, "batch tags"]:
        """Each tag's probability."""
        return jax.nn.sigmoid(self.outputs(variables, batch).astype(jnp.float32))

    def metrics(self, outputs: Any, batch: Batch) -> Metrics:
        """Sums for "loss", "accuracy" (share of right tags), "exact_match" (all of them right)."""
        return tag_metrics(outputs.astype(jnp.float32), batch["tags"], batch["mask"])


def tag_metrics(
    logits: Float[Array, "batch tags"],
    tags: Float[Array, "batch tags"],
    mask: Float[Array, " batch"],
) -> dict[str, Mean]:
    """Sums for "loss" (in nats, over the tags), "accuracy" and "exact_match"; NaN is wrong."""
    right = ((logits > 0) == (tags > 0)) & ~jnp.isnan(logits)
    return {
        "loss": Mean.of(losses.binary_cross_entropy(logits, tags), mask),
        "accuracy": Mean.of(right.mean(-1), mask),
        "exact_match": Mean.of(right.all(-1), mask),
    }


register("multi_label", MultiLabel)
