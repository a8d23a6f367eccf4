"""Learners that descend a loss, and the one function by which any learner does so."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, override

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dlcore import parallel
from dlcore.metrics import Metrics, ReplicatedMean
from dlcore.tasks.learner import Batch, Learner, without_masked
from dlcore.tasks.state import TrainState


class Aux(flax.struct.PyTreeNode):
    """What a loss returns beside its sum.

    Attributes:
      count: number of examples (or tokens) that the sum covers, masked ones left out.
      model_state: the collections other than `params`, after this batch.
      metrics: sums over the batch, by name.
      sown: what layers have sown (`Applied.sown`), for callers that evaluate the loss by hand.
    """

    count: jax.Array
    model_state: Any
    metrics: Metrics
    sown: Any = flax.struct.field(default_factory=dict)


# (params, model_state, batch, key) -> (sum over the batch's unmasked examples, Aux)
Loss = Callable[[Any, Mapping[str, Any], Batch, jax.Array], tuple[jax.Array, Aux]]


@dataclasses.dataclass(frozen=True)
class Descent(Learner):
    """A learner that descends one loss."""

    @abc.abstractmethod
    def loss(
        self, params: Any, model_state: Mapping[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The loss, summed over the batch's unmasked examples, in training mode."""

    @override
    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        optimizer: optax.GradientTransformation,
        accumulate: int = 1,
    ) -> tuple[TrainState, Metrics]:
        """One step down the gradient of the mean loss over the global batch.

        Args:
          state: the state before.
          batch: this device's share.
          key: of everything random in the step.
          optimizer: the Optax chain.
          accumulate: the gradient is summed over this many equal parts of the share, one after
            another, each with batch statistics of its own.
        """
        state, metrics, norm = descend(
            self.loss, state, batch, key, optimizer, accumulate=accumulate, kinds=self.state_kinds
        )
        return state, {**metrics, "gradient_norm": ReplicatedMean.of(norm)}


def descend(
    loss: Loss,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    optimizer: optax.GradientTransformation,
    *,
    player: Sequence[str] = (),
    accumulate: int = 1,
    kinds: Mapping[str, parallel.Kind] | None = None,
) -> tuple[TrainState, Metrics, jax.Array]:
    """One step of the optimizer down the gradient of a mean loss over the global batch.

    Args:
      loss: what is descended.
      state: the state before.
      batch: this device's share; its masked examples may hold anything.
      key: of everything random in the loss.
      optimizer: the Optax chain.
      player: names of the parameters' top-level parts that move, with an optimizer's state of their
        own (`init_players`); all where it is empty.
      accumulate: parts of the batch: see `Descent.update`.
      kinds: what the collections of the state belong to; needed with `accumulate`.

    Returns:
      The state after the step, the loss's metrics over this device's examples, and the norm of the
      gradient.
    """
    own = {name: state.params[name] for name in player} if player else state.params
    opt_state = state.opt_state[_name(player)] if player else state.opt_state

    def loss_of_own(
        own: Any, model_state: Mapping[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        params = {**state.params, **own} if player else own
        total, aux = loss(params, model_state, without_masked(batch), key)
        return total, aux.replace(sown={})

    gradient = jax.value_and_grad(loss_of_own, has_aux=True)
    if accumulate == 1:
        (_, aux), gradients = gradient(own, state.model_state, batch, key)
    else:
        aux, gradients = _accumulated(gradient, own, state, batch, key, accumulate, kinds or {})
    gradients, count = parallel.psum((gradients, aux.count))
    # A batch whose every example is masked changes nothing instead of dividing by zero.
    gradients = jax.tree.map(lambda total: total / jnp.maximum(count, 1), gradients)
    updates, opt_state = optimizer.update(gradients, opt_state, own)
    own = optax.apply_updates(own, updates)
    state = state.replace(
        params={**state.params, **own} if player else own,
        opt_state={**state.opt_state, _name(player): opt_state} if player else opt_state,
        model_state=aux.model_state,
    )
    return state, aux.metrics, optax.tree.norm(gradients)


def init_players(
    optimizer: optax.GradientTransformation, params: Any, *players: Sequence[str]
) -> dict[str, Any]:
    """One first state of the same optimizer for each player, as `descend` looks for them.

    Args:
      optimizer: the Optax chain.
      params: of all players.
      players: the names of each one's top-level parts of the parameters.
    """
    return {
        _name(player): optimizer.init({name: params[name] for name in player}) for player in players
    }


def _name(player: Sequence[str]) -> str:
    return "+".join(player)


def _accumulated(
    gradient: Callable[..., Any],
    own: Any,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    parts: int,
    kinds: Mapping[str, parallel.Kind],
) -> tuple[Aux, Any]:
    """The sums that `gradient` gives over the batch, taken in equal parts, one after another."""
    of_examples = parallel.of_kind(state.model_state, kinds, "examples")
    shared = {name: own for name, own in state.model_state.items() if name not in of_examples}

    def add(shared: Any, inputs: Any) -> tuple[Any, Any]:
        index, part_batch, part_state = inputs
        # What is random about an example is then the same as in the whole batch.
        with parallel.part(index, parts):
            (_, aux), gradients = gradient(own, {**shared, **part_state}, part_batch, key)
        after = dict(aux.model_state)
        part_state = {name: after.pop(name) for name in of_examples}
        return after, (gradients, aux.count, aux.metrics, part_state)

    inputs = (
        jnp.arange(parts),
        parallel.split_batch(batch, parts),
        parallel.split_batch(of_examples, parts),
    )
    shared, stacked = jax.lax.scan(add, shared, inputs)
    gradients, count, sums = jax.tree.map(lambda array: array.sum(0), stacked[:3])
    after = {**shared, **parallel.join_batch(stacked[3])}
    return Aux(count, after, sums), gradients
