"""What runs on the devices: the pure functions of a learner, laid out and compiled."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlcore import weights
from dlcore.errors import UsageError
from dlcore.metrics import Metrics, Rows
from dlcore.nn.normalization import STATISTICS
from dlcore.parallel import Parallelism, of_kind
from dlcore.tasks import Batch, Descent, Learner, TrainState
from dlcore.train import initialization
from dlcore.train.step import (
    Schedule,
    Transform,
    init_state,
    make_evaluation,
    make_moments,
    make_step,
)
from kernels import dispatch


@dataclasses.dataclass(frozen=True)
class Program:
    """What runs on the devices.

    Attributes:
      learner: what is trained.
      parallelism: how the batch and the state are laid out.
      step: `(placed state, placed batch) -> (placed state, report)`; compiled at its first call.
      evaluate: `(placed state, placed batch, number) -> metrics`; likewise.
      abstract_state: shapes, dtypes and shardings of the canonical state.
      batch: shapes and dtypes of one global batch.
      batch_size: examples (or rows of text) in one global batch.
      transform: `(batch, key, train) -> batch`, run inside the step.
      optimizer: the Optax chain.
      kernels: the implementation of the kernels that the model calls.
      make_state: makes the first canonical state.
      moments: `(placed state, placed batch, number) -> moments` for `dlcore.train.statistics`; None
        where the running averages serve.
    """

    learner: Learner
    parallelism: Parallelism
    step: Callable[..., Any]
    evaluate: Callable[..., Any]
    abstract_state: TrainState
    batch: Mapping[str, jax.ShapeDtypeStruct]
    batch_size: int
    transform: Transform
    optimizer: optax.GradientTransformation
    kernels: str
    make_state: Callable[[], TrainState]
    moments: Callable[..., Any] | None = None

    def initialize(self, source: Mapping[str, Any] | None = None, mapping: str = "") -> TrainState:
        """The first canonical state.

        Args:
          source: weights to start from, by path, instead of the model's own start.
          mapping: which of them goes where: see `dlcore.weights.start`.

        Raises:
          UsageError: the weights do not fit.
        """
        state = self.make_state()
        if source is None:
            return state
        variables = weights.start(self._replicated(state), source, mapping)
        params = self._placed(variables.pop("params"), self.abstract_state.params)
        collections = self.abstract_state.model_state
        model_state = {
            **state.model_state,
            **{name: self._placed(own, collections[name]) for name, own in variables.items()},
        }
        optimized = jax.jit(
            functools.partial(self.learner.init_optimizer, self.optimizer),
            out_shardings=_shardings(self.abstract_state.opt_state),
        )
        started = state.replace(params=params, model_state=model_state, opt_state=optimized(params))
        return started if state.average is None else started.with_average()

    def check_source(self, source: Mapping[str, Any], mapping: str) -> None:
        """Raises UsageError where weights, or their shapes, do not fit the first state."""
        weights.start(self.startable, source, mapping)

    @property
    def startable(self) -> dict[str, Any]:
        """The shapes of what weights to start from fill, by collection."""
        return self._replicated(self.abstract_state)

    def _replicated(self, state: TrainState) -> dict[str, Any]:
        own = {"params": state.params, **state.model_state}
        return of_kind(own, self.learner.state_kinds, "replicated")

    @staticmethod
    def _placed(arrays: Any, abstract: Any) -> Any:
        def place(array: Any, like: Any) -> jax.Array:
            return jax.device_put(array, like.sharding)

        return jax.tree.map(place, arrays, abstract)

    @functools.cached_property
    def _rows(self) -> dict[Any, Callable[..., Any]]:
        return {}

    def rows(self, function: Callable[..., Any], *inputs: Any) -> Callable[..., Metrics]:
        """A function of variables, a batch and more, in the form of `evaluate`: collects its rows.

        Compiled once for each function.

        Args:
          function: `(variables, batch, *inputs)` to arrays `[batch, ...]`.
          inputs: trees of arrays. Of a random key each batch gets one of its own.
        """
        if function not in self._rows:

            def collect(state: TrainState, batch: Batch, given: tuple[Any, Any]) -> Metrics:
                number, inputs = given
                prepared = self.transform(batch, None, False)
                mask = prepared["mask"].reshape(prepared["mask"].shape[0], -1).max(1)
                inputs = jax.tree.map(functools.partial(_of_batch, number), inputs)
                values = function(state.variables(), prepared, *inputs)
                return {"rows": Rows(values, mask).reduce()}

            self._rows[function] = self.parallelism.compile_evaluation(
                _by_kernels(collect, self.kernels), self.abstract_state
            )
        compiled = self._rows[function]
        return lambda state, batch, number: compiled(state, batch, (number, inputs))


def build(
    learner: Learner,
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
    kernels: str = "auto",
) -> Program:
    """Builds the program of a training; nothing is compiled yet.

    Args:
      learner: what is trained.
      optimizer: the Optax chain.
      schedule: the learning rate by step.
      transform: `(batch, key, train) -> batch`, run inside the step.
      batch: one global batch; only an initializer that goes by data looks at its content.
      parallelism: from `dlcore.parallel.make`, for the learner's kinds of state.
      seed: of parameters, dropout, noise and augmentation.
      log_every: metrics are summed over this many steps.
      accumulate: see `dlcore.tasks.Descent.update`.
      ema_decay: see `make_step`.
      recompute_statistics: normalization evaluates with the statistics of the whole training set.
        So it does wherever averaged parameters are evaluated, of which no batch has been seen, if
        that can be computed; elsewhere the running statistics are averaged like the parameters.
      initializer: see `dlcore.train.initialization.make`.
      kernels: the implementation of the kernels that the model calls.

    Raises:
      UsageError: the batch does not divide over the devices, there is no such initializer, the
        learner refuses something, or the kernels cannot serve it.
    """
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}
    batch_size = shapes["mask"].shape[0]
    parallelism.check_batch_size(batch_size, accumulate)
    step = make_step(
        learner,
        optimizer,
        schedule,
        transform,
        log_every=log_every,
        accumulate=accumulate,
        ema_decay=ema_decay,
    )
    step = _by_kernels(step, kernels)
    make = init_state(
        learner,
        optimizer,
        step,
        transform,
        shapes,
        seed,
        initialization=initialization.make(initializer),
        ema_decay=ema_decay,
    )
    # All devices make the first state together, and a Pallas kernel cannot be split over them.
    init = _by_kernels(lambda batch: parallelism.stack(make(batch)), "xla")
    abstract = jax.eval_shape(init, shapes)
    evaluate = _by_kernels(make_evaluation(learner, transform), kernels)
    moments = None
    if recompute_statistics or (ema_decay and isinstance(learner, Descent)):
        moments = _by_kernels(make_moments(learner, transform), kernels)
        if not _match_statistics(jax.eval_shape(moments, abstract, shapes, 0), abstract):
            if recompute_statistics:
                raise UsageError(
                    f"recompute_statistics: {type(learner.model).__name__} has no batch "
                    "normalization whose statistics could be computed anew"
                )
            moments = None
    shardings = parallelism.state_shardings(abstract)
    return Program(
        learner=learner,
        parallelism=parallelism,
        step=parallelism.compile_step(step, abstract),
        evaluate=parallelism.compile_evaluation(evaluate, abstract),
        moments=moments and parallelism.compile_evaluation(moments, abstract),
        abstract_state=jax.tree.map(
            lambda array, sharding: jax.ShapeDtypeStruct(
                array.shape, array.dtype, sharding=sharding
            ),
            abstract,
            shardings,
        ),
        batch=shapes,
        batch_size=batch_size,
        transform=transform,
        optimizer=optimizer,
        kernels=kernels,
        make_state=functools.partial(_compile_once(init, shardings), dict(batch)),
    )


def _compile_once(init: Callable[[Batch], TrainState], shardings: Any) -> Callable[..., Any]:
    """Compiles what runs a single time.

    On CPUs, LLVM takes up to half a minute to optimize the random draws of a ResNet-20; a tenth of
    that is enough for the same numbers.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(init, out_shardings=shardings, compiler_options=options)


def _by_kernels(function: Callable[..., Any], kernels: str) -> Callable[..., Any]:
    """The function with its kernels by one implementation, whenever it is traced."""

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with dispatch.using(kernels):
            return function(*args)

    return traced


def _of_batch(number: Any, array: Any) -> Any:
    """An input of a function that is evaluated batch by batch."""
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return jax.random.fold_in(array, number) if is_key else array


def _shardings(abstract: Any) -> Any:
    return jax.tree.map(lambda array: array.sharding, abstract)


def _match_statistics(moments: Any, state: TrainState) -> bool:
    found, expected = (
        [path for path, _ in jax.tree.leaves_with_path(tree)]
        for tree in (moments, state.model_state.get(STATISTICS, {}))
    )
    return bool(expected) and found == expected
