"""The train step and the evaluation step: pure functions of a state and a batch.

The step is the same for every learner and every parallelism. It draws its randomness from the run's
key and its own number, so that a resumed run repeats itself; it adds sums over examples across
devices and divides once, so that masks count right; it keeps the old state where loss, gradient or
what the update makes of the parameters is not finite.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dlcore import metrics as metrics_lib
from dlcore.errors import UsageError
from dlcore.metrics import Metrics, ReplicatedMean
from dlcore.nn.normalization import MOMENTS
from dlcore.optim.rate import learning_rate
from dlcore.tasks import Batch, Descent, Learner, TrainState
from dlcore.tasks.state import zeros_like
from dlcore.train.initialization import Initialization

Transform = Callable[..., Batch]
Schedule = Callable[[jax.Array], jax.Array]

# The key of evaluations comes from the run's under this number, which no step has.
_EVALUATION = 2**32 - 1


class Report(flax.struct.PyTreeNode):
    """What the loop looks at after every step; scalars, the same on every device."""

    loss: jax.Array
    gradient_norm: jax.Array
    finite: jax.Array


Step = Callable[[TrainState, Batch], tuple[TrainState, Report]]
# (state, batch, number of the batch) -> metrics of the whole batch
Evaluation = Callable[[TrainState, Batch, Any], Metrics]


def make_step(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    transform: Transform,
    *,
    log_every: int,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> Step:
    """The step `(state, batch) -> (state, report)` of a learner.

    Args:
      learner: what a batch means and how it is learned from.
      optimizer: the Optax chain, learning rate included.
      schedule: the learning rate by step, for the record.
      transform: `(batch, key, train) -> batch`: decoding, normalization and augmentation.
      log_every: metrics are summed over this many steps, then anew.
      accumulate: see `dlcore.tasks.Descent.update`.
      ema_decay: decay of the moving averages that are evaluated; 0 keeps none.

    Raises:
      UsageError: accumulation is asked of a learner that descends no loss.
    """
    update = learner.update
    if accumulate > 1:
        if not isinstance(learner, Descent):
            raise UsageError(
                f"accumulate={accumulate} needs a task that descends one loss; "
                f"{type(learner).__name__} has an update rule of its own: use accumulate=1"
            )
        update = functools.partial(learner.update, accumulate=accumulate)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Report]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        transform_key, update_key = jax.random.split(key)
        batch = transform(batch, transform_key, True)
        new_state, metrics = update(state, batch, update_key, optimizer)
        sums: dict[str, Any] = metrics_lib.reduce(metrics)
        if "gradient_norm" not in sums:
            # The size of the change stands in for a gradient that a rule may not have.
            change = jax.tree.map(jnp.subtract, new_state.params, state.params)
            sums["update_norm"] = ReplicatedMean.of(optax.tree.norm(change))
        loss = _value(sums["loss"])
        norm = _value(sums["gradient_norm" if "gradient_norm" in sums else "update_norm"])
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & _all_finite(new_state.averaged())
        sums["learning_rate"] = ReplicatedMean.of(learning_rate(state.opt_state, schedule))
        if state.average is not None:
            average = optax.incremental_update(new_state.averaged(), state.average, 1.0 - ema_decay)
            new_state = new_state.replace(average=average)
        if state.metrics:
            fresh = state.step % log_every == 0
            so_far = jax.tree.map(lambda total: jnp.where(fresh, 0, total), state.metrics)
            state = state.replace(metrics=so_far)
            new_state = new_state.replace(metrics=metrics_lib.merge(so_far, sums))
            # The old value is read by the update anyway: the selection fuses into it.
            new_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new_state, state)
        else:  # Only while shapes are inferred: see `init_state`.
            new_state = new_state.replace(metrics=sums)
        return new_state.replace(step=state.step + 1), Report(loss, norm, finite)

    return step


def _value(mean: Any) -> jax.Array:
    return mean.total / mean.count


def _all_finite(tree: Any) -> jax.Array:
    """Whether all numbers of replicated arrays are finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def make_evaluation(learner: Learner, transform: Transform) -> Evaluation:
    """The evaluation `(state, batch, number) -> metrics` of a learner, of the whole batch."""

    def evaluate(state: TrainState, batch: Batch, number: Any) -> Metrics:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), _EVALUATION)
        batch = transform(batch, None, False)
        key = jax.random.fold_in(key, number)
        return metrics_lib.reduce(learner.evaluate(state.variables(), batch, key))

    return evaluate


def make_moments(learner: Learner, transform: Transform) -> Callable[[TrainState, Batch, Any], Any]:
    """The function `(state, batch, number) -> moments` of a batch, in the batch statistics' form.

    The model is in training mode, where the batch itself normalizes. The examples are those of an
    evaluation, without augmentation.

    Raises:
      UsageError: the learner descends no loss.
    """
    if not isinstance(learner, Descent):
        raise UsageError(
            "recompute_statistics needs a task that descends one loss; "
            f"{type(learner).__name__} has an update rule of its own"
        )

    def moments(state: TrainState, batch: Batch, number: Any) -> Any:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step + number)
        batch = transform(batch, None, False)
        variables = state.variables()
        params = variables.pop("params")
        _, aux = learner.loss(params, variables, batch, key)
        return jax.tree.map(
            # A layer that is called twice has sown two.
            lambda calls: sum(calls) / len(calls),
            aux.sown.get(MOMENTS, {}),
            is_leaf=lambda node: isinstance(node, tuple),
        )

    return moments


def init_state(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    step: Step,
    transform: Transform,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    seed: int,
    *,
    initialization: Initialization,
    ema_decay: float = 0.0,
) -> Callable[[Batch], TrainState]:
    """A function of one global batch that makes the first state: to `eval_shape`, then to jit.

    Only an initialization by data looks at what is in the batch.

    Args:
      learner: gives the variables.
      optimizer: gives its state.
      step: tells which metrics it sums.
      transform: as in `make_step`.
      batch: shapes and dtypes of one global batch.
      seed: of the parameters and of everything random in the training.
      initialization: what becomes of the model's own first variables.
      ema_decay: as in `make_step`.

    Raises:
      TypeError: the learner's update returns a metric that is no sum.
    """

    def without_metrics(batch: Batch) -> TrainState:
        init_key, run_key = jax.random.split(jax.random.key(seed))
        batch = transform(batch, None, False)
        own = learner.init(init_key, batch)
        variables = dict(initialization(learner, own, batch, jax.random.fold_in(init_key, 1)))
        params = variables.pop("params")
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=variables,
            opt_state=learner.init_optimizer(optimizer, params),
            rng=jax.random.key_data(run_key),
            average=None,
            metrics={},
        )
        return state.with_average() if ema_decay else state

    metrics = jax.eval_shape(step, jax.eval_shape(without_metrics, batch), batch)[0].metrics
    for name, metric in metrics.items():
        if not isinstance(metric, metrics_lib.SumMetric):
            raise TypeError(
                f"{type(learner).__name__}.update gives {name!r} as a {type(metric).__name__}: "
                "a training records sums only"
            )
    return lambda batch: without_metrics(batch).replace(metrics=zeros_like(metrics))
