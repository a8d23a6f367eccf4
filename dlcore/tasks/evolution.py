"""Generate and test: a classifier that evolves, the baseline that knows no gradient.

Source: Wierstra et al. (2014), Natural evolution strategies, algorithm 6 (separable NES) and table
1. evosax has the algorithm, too, for parameters in one flat vector in a state of its own; here they
stay the model's tree, so that all options of the optimizer and all parallelisms hold.
"""

import dataclasses
import math
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from dlcore.data import Needs
from dlcore.data.features import INPUTS, ClassLabel
from dlcore.errors import UsageError
from dlcore.metrics import Metrics
from dlcore.parallel import psum
from dlcore.ranges import AboveZero, Range
from dlcore.tasks.classification import Classification
from dlcore.tasks.learner import Batch, Learner, Variables
from dlcore.tasks.registry import register
from dlcore.tasks.state import TrainState

_FITNESS = ("cross_entropy", "errors")


@dataclasses.dataclass(frozen=True)
class Evolution(Learner):
    """A Gaussian over parameters that moves toward its better samples, generation by generation.

    A step draws a population around the parameters, tests each candidate on the batch in the mode
    of an evaluation, and ranks them. With their utilities u (`utilities`), their standard normal
    draws z and a deviation s for each parameter, the parameters move by s sum(u z) and the
    deviations by the factor exp(r / 2 sum(u (z^2 - 1))), r = (3 + ln d) / (5 sqrt(d)) for d
    parameters.

    The optimizer is handed -s sum(u z) as the gradient: `sgd` at a learning rate of 1 is the
    published rule. No derivative is taken, so that fitness may be what has none: the number of
    errors.

    Candidates that are equal up to rounding may change places in the ranking from one layout of
    the devices to another: the trainings are then equally good, but not the same.

    Attributes:
      model: a classifier.
      population_size: candidates a generation, at least 2.
      deviation: of every parameter in the first generation, above 0.
      fitness: what ranks the candidates: cross_entropy or errors (zero-one loss).

    Raises:
      UsageError: an option is out of range.
    """

    population_size: Annotated[int, Range(least=2)] = 64
    deviation: AboveZero = 0.1
    fitness: str = "cross_entropy"

    needs: ClassVar[Needs] = {"image": INPUTS, "label": (ClassLabel,)}
    watched_metric: ClassVar[str] = "accuracy"
    watched_mode: ClassVar[str] = "max"
    evaluators: ClassVar[tuple[str, ...]] = ("predictions",)
    model_inputs: ClassVar[int | None] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fitness not in _FITNESS:
            raise UsageError(f"unknown fitness {self.fitness!r}: it is {' or '.join(_FITNESS)}")

    def init_optimizer(self, optimizer: optax.GradientTransformation, params: Any) -> Any:
        """The optimizer's first state, and the deviations'."""
        deviations = jax.tree.map(lambda leaf: jnp.full_like(leaf, self.deviation), params)
        return {"optimizer": optimizer.init(params), "deviations": deviations}

    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        optimizer: optax.GradientTransformation,
    ) -> tuple[TrainState, Metrics]:
        """One generation; the metrics are the population's mean."""
        deviations = state.opt_state["deviations"]
        noise = population_noise(key, state.params, self.population_size)

        def test(noise: Any) -> Metrics:
            moved = jax.tree.map(lambda leaf, s, z: leaf + s * z, state.params, deviations, noise)
            variables = {"params": moved, **state.model_state}
            return self._classifier.metrics(self._classifier.outputs(variables, batch), batch)

        tested: Any = jax.vmap(test)(noise)
        # Every device ranks by the whole batch, and so takes the same step.
        whole = psum(tested)
        cost = whole["loss"].total if self.fitness == "cross_entropy" else -whole["accuracy"].total
        weights = (
            jnp.zeros_like(cost)
            .at[jnp.argsort(cost)]
            .set(utilities(self.population_size).astype(cost.dtype))
        )
        moves = jax.tree.map(lambda s, z: -s * jnp.tensordot(weights, z, 1), deviations, noise)
        updates, opt_state = optimizer.update(moves, state.opt_state["optimizer"], state.params)
        dimension = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        rate = (3 + math.log(dimension)) / (5 * math.sqrt(dimension))
        deviations = jax.tree.map(
            lambda s, z: s * jnp.exp(rate / 2 * jnp.tensordot(weights, z**2 - 1, 1)),
            deviations,
            noise,
        )
        new_state = state.replace(
            params=optax.apply_updates(state.params, updates),
            opt_state={"optimizer": opt_state, "deviations": deviations},
        )
        return new_state, jax.tree.map(lambda sums: sums.sum(0), tested)

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        """Sums for "loss" and "accuracy"."""
        return self._classifier.evaluate(variables, batch, key)

    def predict(self, variables: Variables, batch: Batch) -> Float[Array, "batch classes"]:
        """Each class's probability."""
        return self._classifier.predict(variables, batch)

    @property
    def _classifier(self) -> Classification:
        return Classification(self.model)


def utilities(population_size: int) -> np.ndarray:
    """What a candidate counts by its rank, the best first, `[population_size]`.

    They fall as far as the middle rank and are equal behind it; their sum is 0.

    Source: Wierstra et al. (2014), section 3.1 and table 1.
    """
    ranks = np.arange(1, population_size + 1)
    raw = np.maximum(0, np.log(population_size / 2 + 1) - np.log(ranks))
    return raw / raw.sum() - 1 / population_size


def population_noise(rng: jax.Array, params: Any, population_size: int) -> Any:
    """Standard normal draws like the parameters, a population of them on a new first axis."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(rng, len(leaves))
    return jax.tree.unflatten(
        structure,
        [
            jax.random.normal(key, (population_size, *leaf.shape), leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ],
    )


register("evolution", Evolution)
