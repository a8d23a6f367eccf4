"""The train step and the evaluation step: pure functions of a state and a batch.

The step is the same for every task and every parallelism. It draws its randomness from the run's
key and its own number, so that a resumed run repeats itself; it adds sums over examples across
devices and divides once, so that masks count right; it keeps the old state where loss or gradient
is not finite.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dlcore import metrics as metrics_lib
from dlcore.errors import UsageError
from dlcore.metrics import Mean, Metrics
from dlcore.nn.normalization import MOMENTS
from dlcore.optim.rate import learning_rate
from dlcore.parallel import CARRY, join_batch, part, psum, split_batch
from dlcore.tasks import Batch, Task
from dlcore.train.initialization import Initialization
from dlcore.train.state import TrainState, zeros_like

Transform = Callable[..., Batch]
Schedule = Callable[[jax.Array], jax.Array]


class Report(flax.struct.PyTreeNode):
    """What the loop looks at after every step; scalars, the same on every device."""

    loss: jax.Array
    gradient_norm: jax.Array
    finite: jax.Array


Step = Callable[[TrainState, Batch], tuple[TrainState, Report]]


def make_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    transform: Transform,
    *,
    log_every: int,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> Step:
    """The step `(state, batch) -> (state, report)` of a task.

    Args:
      task: what a batch means and what is descended.
      optimizer: the Optax chain, learning rate included.
      schedule: the learning rate by step, for the record.
      transform: `(batch, key, train) -> batch`: decoding, normalisation and augmentation.
      log_every: metrics are summed over this many steps, then anew.
      accumulate: the gradient is summed over this many equal parts of a device's batch, each with
        batch statistics of its own.
      ema_decay: decay of the parameters' moving average; 0 keeps none.

    Raises:
      UsageError: accumulation is asked of a task that has an update rule of its own.
    """
    custom_update = getattr(task, "update", None)
    if custom_update and accumulate > 1:
        raise UsageError(
            f"--accumulate={accumulate} needs a task that descends one loss; "
            f"{type(task).__name__} has an update rule of its own: use --accumulate=1"
        )

    def update(state: TrainState, batch: Batch, rng: jax.Array) -> tuple[TrainState, Metrics]:
        if custom_update:
            new_state, sums = custom_update(state, batch, rng, optimizer)
            change = jax.tree.map(jnp.subtract, new_state.params, state.params)
            # The size of the change stands in for a gradient that a rule may not have.
            return new_state, {**psum(sums), "update_norm": Mean.of(optax.tree.norm(change))}
        return _descend(task, optimizer, state, batch, rng, accumulate)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Report]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        transform_rng, update_rng = jax.random.split(rng)
        batch = transform(batch, transform_rng, True)
        new_state, sums = update(state, batch, update_rng)
        sums = {**sums, "learning_rate": Mean.of(learning_rate(state.opt_state, schedule))}
        if state.ema_params is not None:
            average = optax.incremental_update(new_state.params, state.ema_params, 1.0 - ema_decay)
            new_state = new_state.replace(ema_params=average)
        loss = _value(sums["loss"])
        norm = _value(sums["update_norm" if custom_update else "gradient_norm"])
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
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


def _descend(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    rng: jax.Array,
    accumulate: int,
) -> tuple[TrainState, Metrics]:
    """One update down the gradient of the task's mean loss over the global batch."""
    gradient = jax.value_and_grad(task.loss, has_aux=True)
    if accumulate == 1:
        (_, aux), gradients = gradient(state.params, state.model_state, batch, rng)
        model_state, count, sums = aux.model_state, aux.count, aux.metrics
    else:
        gradients, model_state, count, sums = _accumulate(gradient, state, batch, rng, accumulate)
    gradients, count, sums = psum((gradients, count, sums))
    # A batch whose every example is masked changes nothing instead of dividing by zero.
    gradients = jax.tree.map(lambda total: total / jnp.maximum(count, 1), gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    new_state = state.replace(
        params=optax.apply_updates(state.params, updates),
        model_state=model_state,
        opt_state=opt_state,
    )
    return new_state, {**sums, "gradient_norm": Mean.of(optax.tree.norm(gradients))}


def _accumulate(
    gradient: Callable[..., Any], state: TrainState, batch: Batch, rng: jax.Array, parts: int
) -> tuple[Any, Any, jax.Array, Metrics]:
    """The sums that `gradient` gives over the batch, taken in equal parts, one after another."""
    shared = {name: value for name, value in state.model_state.items() if name != CARRY}
    by_example = (
        {CARRY: split_batch(state.model_state[CARRY], parts)} if CARRY in state.model_state else {}
    )

    def add(shared: Any, inputs: Any) -> tuple[Any, Any]:
        index, part_batch, part_carry = inputs
        # What is random about an example is then the same as in the whole batch.
        with part(index, parts):
            (_, aux), gradients = gradient(state.params, {**shared, **part_carry}, part_batch, rng)
        model_state = dict(aux.model_state)
        carry = {name: model_state.pop(name) for name in by_example}
        return model_state, (gradients, aux.count, aux.metrics, carry)

    inputs = (jnp.arange(parts), split_batch(batch, parts), by_example)
    shared, stacked = jax.lax.scan(add, shared, inputs)
    gradients, count, sums = jax.tree.map(lambda array: array.sum(0), stacked[:3])
    return gradients, {**shared, **join_batch(stacked[3])}, count, sums


def make_evaluation(task: Task, transform: Transform) -> Callable[[TrainState, Batch], Metrics]:
    """The evaluation `(state, batch) -> sums` of a task, summed over all devices."""

    def evaluate(state: TrainState, batch: Batch) -> Metrics:
        batch = transform(batch, None, False)
        return psum(task.evaluate(state.variables(), batch))

    return evaluate


def make_moments(task: Task, transform: Transform) -> Callable[[TrainState, Batch], Any]:
    """The function `(state, batch) -> moments` of a batch, in the form of the batch statistics.

    The model is in training mode, where the batch itself normalises. The examples are those of an
    evaluation, without augmentation.

    Raises:
      UsageError: the task has an update rule of its own.
    """
    if hasattr(task, "update"):
        raise UsageError(
            f"--recompute_statistics needs a task that descends one loss; {type(task).__name__} "
            "has an update rule of its own"
        )

    def moments(state: TrainState, batch: Batch) -> Any:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        variables = state.variables()
        params = variables.pop("params")
        batch = transform(batch, None, False)
        # What a layer sows is kept only where the collection is there.
        _, aux = task.loss(params, {**variables, MOMENTS: {}}, batch, rng)
        return jax.tree.map(
            # A layer that is called twice has sown two.
            lambda calls: sum(calls) / len(calls),
            aux.model_state.get(MOMENTS, {}),
            is_leaf=lambda node: isinstance(node, tuple),
        )

    return moments


def init_state(
    task: Task,
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

    Only an initialisation by data looks at what is in the batch.

    Args:
      task: gives the variables.
      optimizer: gives its state.
      step: tells which metrics it sums.
      transform: as in `make_step`.
      batch: shapes and dtypes of one global batch.
      seed: of the parameters and of everything random in the training.
      initialization: what becomes of the model's own first variables.
      ema_decay: as in `make_step`.
    """

    def without_metrics(batch: Batch) -> TrainState:
        init_rng, run_rng = jax.random.split(jax.random.key(seed))
        batch = transform(batch, None, False)
        own = task.init(init_rng, batch)
        variables = dict(initialization(task, own, batch, jax.random.fold_in(init_rng, 1)))
        params = variables.pop("params")
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=variables,
            opt_state=task.init_optimizer(optimizer, params),
            rng=jax.random.key_data(run_rng),
            ema_params=jax.tree.map(jnp.copy, params) if ema_decay else None,
            metrics={},
        )

    metrics = jax.eval_shape(step, jax.eval_shape(without_metrics, batch), batch)[0].metrics
    return lambda batch: without_metrics(batch).replace(metrics=zeros_like(metrics))
