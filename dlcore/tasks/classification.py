"""Classification of single-label examples by cross-entropy, the MAP criterion of 1998, or others.

Their losses are in `dlcore.losses`.
"""

import dataclasses
from typing import Any, ClassVar, override

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dlcore import losses
from dlcore.data import Needs
from dlcore.data.features import INPUTS, ClassLabel
from dlcore.errors import UsageError
from dlcore.metrics import Mean, Metrics
from dlcore.ranges import NotNegative, Rate
from dlcore.tasks.learner import Batch, Variables
from dlcore.tasks.registry import register
from dlcore.tasks.supervised import Supervised

# Of the scores and the labels' distribution.
_OF_TARGETS = {**losses.OF_OUTPUTS, "kl_divergence": losses.kl_divergence}
CRITERIA = ("cross_entropy", "hinge", *_OF_TARGETS)
# From so many classes on, labels are seldom the only right answer.
_MANY = 100


@dataclasses.dataclass(frozen=True)
class Classification(Supervised):
    """Softmax cross-entropy of the model's scores [batch, classes] with the labels, by default.

    A positive `rubbish_penalty` j adds a class of rubbish, to which no label belongs and whose
    score is always -j. With scores that are the negatives of penalties (`lenet5`) the loss is then
    the MAP criterion of LeCun et al. (1998), eq. 9, in which j keeps the penalties from all growing
    at once.

    Attributes:
      model: the Linen module that is trained.
      criterion: the loss: cross_entropy, kl_divergence (less the entropy of a smoothed label),
        hinge (of several classes, Crammer and Singer 2001); or the distance of the scores
        themselves from 1 for the label and 0 elsewhere: square, half_square, mean_square, absolute.
      label_smoothing: share of the label's probability that is spread evenly over all classes
        (Szegedy et al. 2016, section 7), at least 0 and below 1.
      rubbish_penalty: penalty j of the rubbish class; 0 for none.
      auxiliary_weight: weight of the loss of each auxiliary head, where a model in training gives
        the scores of several heads, the main one first (Szegedy et al. 2015, section 5: 0.3).

    Raises:
      UsageError: an option is out of range, or does not go with the criterion.
    """

    criterion: str = "cross_entropy"
    label_smoothing: Rate = 0.0
    rubbish_penalty: NotNegative = 0.0
    auxiliary_weight: NotNegative = 0.3

    needs: ClassVar[Needs] = {"image": INPUTS, "label": (ClassLabel,)}
    watched_metric: ClassVar[str] = "accuracy"
    watched_mode: ClassVar[str] = "max"
    evaluators: ClassVar[tuple[str, ...]] = ("predictions",)
    averages_views: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.criterion not in CRITERIA:
            raise UsageError(
                f"unknown criterion {self.criterion!r}: it is one of {', '.join(CRITERIA)}"
            )
        if self.rubbish_penalty and self.criterion != "cross_entropy":
            raise UsageError(f"rubbish_penalty goes with cross_entropy, not with {self.criterion}")
        if self.label_smoothing and self.criterion == "hinge":
            raise UsageError("label_smoothing does not go with hinge, which knows a label only")

    def predict(self, variables: Variables, batch: Batch) -> Float[Array, "batch classes"]:
        """Each class's probability, rubbish left out: the softmax of the scores."""
        return jax.nn.softmax(self.outputs(variables, batch).astype(jnp.float32))

    @override
    def outputs(self, variables: Variables, batch: Batch) -> Float[Array, "batch classes"]:
        """The scores of every example; where it has several views, of their averaged prediction.

        What is averaged are probabilities (Krizhevsky et al. 2012, section 4.1), or the scores
        themselves where the criterion takes them for the prediction.
        """
        if "views" not in batch:
            return super().outputs(variables, batch)
        views = batch["views"]
        one_by_one = {**batch, "image": views.reshape(-1, *views.shape[2:])}
        each = super().outputs(variables, one_by_one)
        each = each.reshape(*views.shape[:2], -1).astype(jnp.float32)
        if self.criterion in losses.OF_OUTPUTS:
            return each.mean(1)
        return jax.nn.logsumexp(jax.nn.log_softmax(each), axis=1) - jnp.log(views.shape[1])

    def metrics(self, outputs: Any, batch: Batch) -> Metrics:
        """Sums for "loss" and "accuracy"; the latter is the main head's, the first of several.

        Of 100 classes and more "top_5_accuracy", too: the label is among the five best.
        """
        labels, mask = batch["label"], batch["mask"]
        outputs, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        of_examples = self._losses(outputs.astype(jnp.float32), labels)
        for scores in auxiliary:
            of_examples += self.auxiliary_weight * self._losses(scores.astype(jnp.float32), labels)
        sums: Metrics = {
            "loss": Mean.of(of_examples, mask),
            "accuracy": Mean.of(1 - losses.zero_one(outputs, labels), mask),
        }
        if outputs.shape[-1] < _MANY:
            return sums
        among = 1 - losses.not_among(outputs, labels, 5)
        return {**sums, "top_5_accuracy": Mean.of(among, mask)}

    def _losses(
        self, scores: Float[Array, "batch classes"], labels: Int[Array, " batch"]
    ) -> Float[Array, " batch"]:
        if self.criterion == "hinge":
            return optax.losses.multiclass_hinge_loss(scores, labels)
        classes = scores.shape[-1]
        targets = jax.nn.one_hot(labels, classes, dtype=scores.dtype) * (1 - self.label_smoothing)
        targets = targets + self.label_smoothing / classes
        if self.criterion in _OF_TARGETS:
            return _OF_TARGETS[self.criterion](scores, targets)
        rivals = scores
        if self.rubbish_penalty:
            rivals = jnp.pad(scores, ((0, 0), (0, 1)), constant_values=-self.rubbish_penalty)
        log_probabilities = jax.nn.log_softmax(rivals)[:, :classes]
        return -(targets * log_probabilities).sum(-1)


register("classification", Classification)
