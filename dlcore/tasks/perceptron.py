"""The perceptron's learning rule: a learner that is no plain descent of a loss.

Source: Rosenblatt (1958); for more than two classes the form that Kesler's construction gives
(Nilsson 1965; Duda, Hart and Stork 2001, section 5.12.1).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dlcore.data import Needs
from dlcore.data.features import INPUTS, ClassLabel
from dlcore.metrics import Mean, Metrics, NanPredictions
from dlcore.models.perceptron import respond
from dlcore.tasks.learner import Batch, Learner, Variables, without_masked
from dlcore.tasks.registry import register
from dlcore.tasks.state import TrainState


@dataclasses.dataclass(frozen=True)
class Perceptron(Learner):
    """One correction an example, in the batch's order, and none where the answer is right.

    With one unit, w += rate (target - answer) x. With a unit for each class, the label's unit gains
    x and the answering one loses it. The correction is handed to the optimizer as a gradient,
    example by example: `sgd` with a constant rate is the published rule, and since the weights
    start at zero the rate itself changes no answer. Penalties leave the thresholds alone.

    Examples depend on each other in order, so that no batch can be shared among devices.

    Attributes:
      model: a `dlcore.models.perceptron.Perceptron`.
    """

    parallelisms: ClassVar[tuple[str, ...]] = ("jit",)
    needs: ClassVar[Needs] = {"image": INPUTS, "label": (ClassLabel,)}
    watched_metric: ClassVar[str] = "accuracy"
    watched_mode: ClassVar[str] = "max"
    evaluators: ClassVar[tuple[str, ...]] = ("predictions",)
    model_inputs: ClassVar[int | None] = 1

    @property
    def one_update_a_step(self) -> bool:
        """False: the optimizer is called once an example."""
        return False

    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        optimizer: optax.GradientTransformation,
    ) -> tuple[TrainState, Metrics]:
        """Learns from each example in turn; metrics are of the answers before each correction."""
        del key

        def learn(carry: tuple[Any, Any], example: Batch) -> tuple[tuple[Any, Any], Metrics]:
            params, opt_state = carry
            one = jax.tree.map(lambda array: array[None], dict(example))

            def criterion(params: Any) -> tuple[jax.Array, Metrics]:
                sums: Any = self.model.apply({"params": params}, one["image"])
                metrics = self._metrics(sums, one)
                return metrics["loss"].total, metrics

            correction, metrics = jax.grad(criterion, has_aux=True)(params)
            # A threshold of 0 for the penalties, which are of weights and not of biases.
            penalized = {"weights": params["weights"].at[-1].set(0)}
            updates, opt_state = optimizer.update(correction, opt_state, penalized)
            return (optax.apply_updates(params, updates), opt_state), metrics

        (params, opt_state), metrics = jax.lax.scan(
            learn, (state.params, state.opt_state), without_masked(batch)
        )
        metrics = jax.tree.map(lambda sums: sums.sum(0), metrics)
        return state.replace(params=params, opt_state=opt_state), metrics

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        """Sums for "loss" and "accuracy"."""
        del key
        sums: Any = self.model.apply(variables, batch["image"])
        nan = NanPredictions.of(sums, batch["mask"])
        return {**self._metrics(sums, batch), "nan_predictions": nan}

    def predict(self, variables: Variables, batch: Batch) -> Float[Array, "batch classes"]:
        """1 for the class that the units answer and 0 for the others."""
        sums: Any = self.model.apply(variables, batch["image"])
        return _by_class(respond(sums))

    def _metrics(self, sums: Float[Array, "batch units"], batch: Batch) -> dict[str, Mean]:
        answers = respond(sums)
        targets = _targets(batch["label"], sums.shape[1])
        # The perceptron criterion: by how much the wrong answer's sums exceed the right one's. Its
        # gradient with the answers held fixed is the rule's correction.
        losses = ((answers - targets) * sums).sum(1)
        correct = (answers == targets).all(1)
        return {"loss": Mean.of(losses, batch["mask"]), "accuracy": Mean.of(correct, batch["mask"])}


def _targets(labels: Int[Array, " batch"], units: int) -> Float[Array, "batch units"]:
    if units == 1:
        return labels[:, None].astype(jnp.float32)
    return jax.nn.one_hot(labels, units, dtype=jnp.float32)


def _by_class(answers: Float[Array, "batch units"]) -> Float[Array, "batch classes"]:
    if answers.shape[1] == 1:
        return jnp.concatenate([1 - answers, answers], axis=1)
    return answers


register("perceptron", Perceptron)
