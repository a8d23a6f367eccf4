"""A training made concrete: the task's step and evaluation compiled for the devices at hand."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from dlcore.errors import UsageError
from dlcore.parallel import Parallelism
from dlcore.tasks import Task
from dlcore.train import initialization
from dlcore.train.state import STATISTICS, TrainState
from dlcore.train.step import (
    Schedule,
    Transform,
    init_state,
    make_evaluation,
    make_moments,
    make_step,
)


@dataclasses.dataclass(frozen=True)
class Program:
    """What runs on the devices.

    Attributes:
      task: the learning regime.
      parallelism: how the batch and the state are laid out.
      step: `(placed state, placed batch) -> (placed state, report)`; compiled at its first call.
      evaluate: `(placed state, placed batch) -> sums`; likewise.
      abstract_state: shapes, dtypes and shardings of the canonical state.
      batch: shapes and dtypes of one global batch.
      initialize: makes the first canonical state.
      moments: `(placed state, placed batch) -> moments` for `dlcore.train.statistics`; None where
        the running averages serve.
    """

    task: Task
    parallelism: Parallelism
    step: Callable[..., Any]
    evaluate: Callable[..., Any]
    abstract_state: TrainState
    batch: Mapping[str, jax.ShapeDtypeStruct]
    initialize: Callable[[], TrainState]
    moments: Callable[..., Any] | None = None


def build(
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    transform: Transform,
    batch: Mapping[str, Any],
    parallelism: Parallelism,
    *,
    seed: int,
    log_every: int,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    recompute_statistics: bool = False,
    initializer: str = "",
) -> Program:
    """Builds the program of a training; nothing is compiled yet.

    Args:
      task: the learning regime.
      optimizer: the Optax chain.
      schedule: the learning rate by step.
      transform: `(batch, key, train) -> batch`, run inside the step.
      batch: one global batch; only an initializer that goes by data looks at its content.
      parallelism: from `dlcore.parallel.make`.
      seed: of parameters, dropout, noise and augmentation.
      log_every: metrics are summed over this many steps.
      accumulate: see `make_step`.
      ema_decay: see `make_step`.
      recompute_statistics: normalisation evaluates with the statistics of the whole training set.
      initializer: see `dlcore.train.initialization.make`.

    Raises:
      UsageError: the batch does not divide over the devices, there is no such initializer, or the
        task refuses something.
    """
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}
    batch_size = next(iter(shapes.values())).shape[0]
    parallelism.check_batch_size(batch_size, accumulate)
    step = make_step(
        task,
        optimizer,
        schedule,
        transform,
        log_every=log_every,
        accumulate=accumulate,
        ema_decay=ema_decay,
    )
    init = init_state(
        task,
        optimizer,
        step,
        transform,
        shapes,
        seed,
        initialization=initialization.make(initializer),
        ema_decay=ema_decay,
    )
    abstract = jax.eval_shape(init, shapes)
    moments = make_moments(task, transform) if recompute_statistics else None
    if moments:
        _check_moments(task, jax.eval_shape(moments, abstract, shapes), abstract)
    shardings = parallelism.state_shardings(abstract)
    return Program(
        task=task,
        parallelism=parallelism,
        step=parallelism.compile_step(step, abstract),
        evaluate=parallelism.compile_evaluation(make_evaluation(task, transform), abstract),
        moments=moments and parallelism.compile_evaluation(moments, abstract),
        abstract_state=jax.tree.map(
            lambda array, sharding: jax.ShapeDtypeStruct(
                array.shape, array.dtype, sharding=sharding
            ),
            abstract,
            shardings,
        ),
        batch=shapes,
        initialize=functools.partial(jax.jit(init, out_shardings=shardings), dict(batch)),
    )


def _check_moments(task: Task, moments: Any, state: TrainState) -> None:
    found, expected = (
        [path for path, _ in jax.tree.leaves_with_path(tree)]
        for tree in (moments, state.model_state.get(STATISTICS, {}))
    )
    if not expected or found != expected:
        raise UsageError(
            f"--recompute_statistics: {type(task.model).__name__} has no batch normalisation whose "
            "statistics could be computed anew"
        )
