"""What a learning regime is: a batch's meaning, its loss and its metrics, as pure functions.

A task is a frozen dataclass over a model. `dlcore.train.step` turns it into a train step:

- a task that descends one loss gives `loss`;
- a learner that does anything else (the perceptron rule, the two players of a GAN) gives `update`.

Inside a step the batch may be one device's share of the global batch. Sums over examples stay
local in `loss` and `evaluate`, and so do the metrics that an `update` returns: the step adds them
across devices. What an `update` needs itself, it adds with `dlcore.parallel.psum`.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import optax

from dlcore.metrics import Metrics
from dlcore.registry import Registry

Batch = Mapping[str, jax.Array]


@flax.struct.dataclass
class Aux:
    """What a loss returns beside its sum.

    Attributes:
      count: number of examples (or tokens) that the sum covers, masked ones left out.
      model_state: the model's collections other than `params`, after this batch.
      metrics: sums over the batch, by name.
    """

    count: jax.Array
    model_state: Any
    metrics: Metrics


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A learning regime over a model.

    Attributes:
      model: the Linen module that is trained.
    """

    model: nn.Module

    # What `--parallelism` may be; another one is refused by name.
    parallelisms: ClassVar[tuple[str, ...]] = ("jit", "pmap", "data", "fsdp")
    # What early stopping and the best checkpoint watch; None where only the newest counts.
    watched_metric: ClassVar[str | None] = "loss"
    watched_mode: ClassVar[str] = "min"
    # The kind of dataset that gives its batches.
    data_kind: ClassVar[str] = "image"
    # Whether it averages over a batch's `views`, the several crops of a test.
    averages_views: ClassVar[bool] = False
    # What a model needs beside a `__call__` of one input.
    model_methods: ClassVar[tuple[str, ...]] = ()

    @property
    def one_update_a_step(self) -> bool:
        """Whether the optimizer, and with it a schedule, counts the loop's steps."""
        return True

    @abc.abstractmethod
    def init(self, rng: jax.Array, batch: Batch) -> dict[str, Any]:
        """Fresh variables: `params` and the model's other collections.

        A collection named `carry` holds state that belongs to examples (a recurrent state): its
        arrays have the global batch as their first axis and are sharded with the batch.
        """

    @abc.abstractmethod
    def evaluate(self, variables: Mapping[str, Any], batch: Batch) -> Metrics:
        """Sums of every evaluation metric over the batch's unmasked examples."""

    def loss(
        self, params: Any, model_state: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The loss, summed over the batch's unmasked examples, in training mode."""
        raise NotImplementedError(f"{type(self).__name__} gives update instead of loss")

    def init_optimizer(self, optimizer: optax.GradientTransformation, params: Any) -> Any:
        """The optimizer's first state; a task with several players keeps one for each."""
        return optimizer.init(params)

    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """The positional inputs of the model's `__call__` for a batch, for tables and counts."""
        return (batch["image"],)


_tasks: Registry[type[Task]] = Registry("task")
register, names, kind = _tasks.add, _tasks.names, _tasks.get


def defaults(name: str) -> dict[str, Any]:
    """The options of a task and their defaults."""
    return {f.name: f.default for f in dataclasses.fields(kind(name)) if f.name != "model"}


def create(name: str, model: nn.Module, **options: Any) -> Task:
    """The task of that name over a model.

    Raises:
      UsageError: no such task, or it has no such option, or an option's value is out of range.
    """
    _tasks.check_options(name, options, defaults(name))
    return kind(name)(model=model, **options)
