"""What the loop needs of a learning regime, whatever it does: `Learner`.

A learner is a frozen dataclass over a model: a set of pure functions, and facts about them that
the frame goes by. A learner that descends one loss is a `dlcore.tasks.descent.Descent`, which gives
only the loss; one that does anything else (the perceptron's rule, the two players of a GAN,
contrastive divergence) gives `update`. What a trained model can do besides is in
`dlcore.tasks.protocols`.

Inside a step the batch may be one device's share of the global batch. Metrics stay local in
`update` and `evaluate`: the step reduces them over the devices. What an `update` needs itself, it
adds with `dlcore.parallel.psum` or joins with `dlcore.parallel.all_gather`, so that what the state
declares as replicated is the same on every device.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dlcore import data, parallel, ranges
from dlcore.metrics import Metrics
from dlcore.nn.normalization import MOMENTS
from dlcore.tasks.state import TrainState

Batch = Mapping[str, jax.Array]
Variables = Mapping[str, Any]


def without_masked(batch: Batch) -> Batch:
    """The batch with zeros for what its masked examples hold and no computation can bear.

    Those may hold anything, and a mask on their losses is not enough: their cotangent of zero,
    times the derivative of what holds a NaN, is NaN. Integers, which may be places in a table, are
    all replaced. Finite numbers stay, as a task may compare an example with its neighbors.

    Args:
      batch: with a "mask" `[batch, ...]`; an example is masked where all of its mask is 0. Without
        one, all examples count.
    """
    if "mask" not in batch:
        return batch
    mask = batch["mask"]
    counts = (mask > 0).reshape(mask.shape[0], -1).any(1)

    def bearable(array: jax.Array) -> jax.Array:
        stays = counts.reshape(-1, *[1] * (array.ndim - 1))
        if jnp.issubdtype(array.dtype, jnp.inexact):
            return jnp.where(stays | jnp.isfinite(array), array, 0)
        return jnp.where(stays, array, 0) if jnp.issubdtype(array.dtype, jnp.integer) else array

    return jax.tree.map(bearable, dict(batch))


class Applied(NamedTuple):
    """What a model gave in training mode.

    Attributes:
      outputs: of its method.
      model_state: its collections other than `params`, after this batch.
      sown: what layers have sown (`Module.sow`) into other collections, by collection.
    """

    outputs: Any
    model_state: dict[str, Any]
    sown: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Learner(abc.ABC):
    """A learning regime over a model.

    Attributes:
      model: the Linen module that is trained.

    Raises:
      UsageError: an option is out of its range.
    """

    model: nn.Module

    # What an example has to hold: the kinds of feature that will do, by the key of a batch. A
    # batch then has nothing else; where nothing is named, all that the dataset has.
    needs: ClassVar[data.Needs] = {}
    # The random streams that the model draws from in training (`Module.make_rng`).
    rngs: ClassVar[tuple[str, ...]] = ("dropout",)
    # The collections into which layers sow (`Module.sow`): handed back after each call, never kept.
    sown: ClassVar[tuple[str, ...]] = ("intermediates", "losses", MOMENTS)
    # What collections of the state belong to: examples, replicated (the default) or device.
    state_kinds: ClassVar[Mapping[str, parallel.Kind]] = {}
    # What `parallelism` may be; another one is refused by name.
    parallelisms: ClassVar[tuple[str, ...]] = parallel.NAMES
    # What early stopping and the best checkpoint watch; None where only the newest counts.
    watched_metric: ClassVar[str | None] = "loss"
    watched_mode: ClassVar[str] = "min"
    # How a trained model is judged and shown, besides its metrics: see `dlcore.evaluators`.
    evaluators: ClassVar[tuple[str, ...]] = ()
    # Whether it averages over a batch's `views`, the several crops of a test.
    averages_views: ClassVar[bool] = False
    # What the model has to be besides a Linen module, a runtime-checkable protocol.
    model_protocol: ClassVar[type] = nn.Module
    # How many inputs the model has to have, with one output in evaluation; None where that is open.
    model_inputs: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        ranges.check(self)

    @classmethod
    def model_facts(cls, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """The dataset's facts as the model is to have them, by the names of its options.

        Raises:
          UsageError: the task does not go with them.
        """
        return facts

    @property
    def one_update_a_step(self) -> bool:
        """Whether the optimizer, and with it a schedule, counts the loop's steps."""
        return True

    def init_model(self, key: jax.Array, *inputs: Any, method: str | None = None) -> dict[str, Any]:
        """The model's fresh variables for some inputs, without what layers have sown."""
        variables = self.model.init(key, *inputs, method=method)
        return {name: own for name, own in variables.items() if name not in self.sown}

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        """Fresh variables: `params`, and the model's and the learner's other collections.

        They are the model's alone, unless a learner adds to them. The batch is the global one. A
        collection whose kind is "examples" has the global batch as the first axis of its arrays;
        one of kind "device" is given for a single device.
        """
        return self.init_model(key, *self.describe_inputs(batch))

    @abc.abstractmethod
    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        optimizer: optax.GradientTransformation,
    ) -> tuple[TrainState, Metrics]:
        """One update: the state with new `params`, `model_state` and `opt_state`, and metrics.

        Metrics are sums over this device's examples, or a `ReplicatedMean` of what every device
        has; "loss" has to be among them. One called "gradient_norm" is watched for numbers that are
        not finite; where there is none, the size of the update is.
        """

    @abc.abstractmethod
    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        """Every evaluation metric over the batch's unmasked examples.

        The key differs from batch to batch, and is the same whenever a batch is evaluated again.
        """

    def init_optimizer(self, optimizer: optax.GradientTransformation, params: Any) -> Any:
        """The optimizer's first state; a learner with several players keeps one for each."""
        return optimizer.init(params)

    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """The positional inputs of the model's `__call__` for a batch; an image by default."""
        return (batch["image"],)

    def apply(
        self,
        params: Any,
        model_state: Mapping[str, Any],
        *inputs: Any,
        key: jax.Array,
        method: str | None = None,
    ) -> Applied:
        """The model on some inputs in training mode: the one place where this is done.

        Args:
          params: the parameters.
          model_state: the model's other collections.
          inputs: of the method.
          key: of the random streams that `rngs` names.
          method: of the model; `__call__` by default.
        """
        keys = {name: jax.random.fold_in(key, index) for index, name in enumerate(self.rngs)}
        outputs, after = self.model.apply(
            {"params": params, **model_state},
            *inputs,
            train=True,
            rngs=keys,
            mutable=[*model_state, *self.sown],
            method=method,
        )
        collections = dict(after)
        sown = {name: collections.pop(name) for name in self.sown if name in collections}
        return Applied(outputs, collections, sown)
