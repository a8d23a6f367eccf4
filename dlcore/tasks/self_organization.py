"""The cognitron's and the neocognitron's rule: the cells that answer best are reinforced.

Sources: Fukushima (1975 and 1980); `dlcore.models.neocognitron` has the cells and what is
simplified about them.
"""

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from dlcore.data import Needs
from dlcore.data.features import Image
from dlcore.errors import UsageError
from dlcore.metrics import Mean, Metrics
from dlcore.models.neocognitron import SimpleCells
from dlcore.nn import backbone
from dlcore.ranges import Positive
from dlcore.tasks.learner import Batch, Learner, Variables
from dlcore.tasks.registry import register
from dlcore.tasks.state import TrainState


@runtime_checkable
class SelfOrganizing(Protocol):
    """A network of S-cells that names what its layers see: the stages input1, input2, ..."""

    def simple_cells(self) -> list[SimpleCells]:
        """The layers of S-cells; their parameters are layer1, layer2, ..."""

    def choose(self, responses: jax.Array) -> jax.Array:
        """1 for the cells to reinforce and 0 for the others, given what a layer answers."""


@dataclasses.dataclass(frozen=True)
class SelfOrganization(Learner):
    """One layer learns, one image after another, without labels.

    Of each image the network chooses cells of the layer, and their weights grow: a by q c u and b
    by q v. The increments, q left out, are handed to the optimizer as a gradient downward, image by
    image: `sgd` at a constant learning rate of q is the published rule. Layers are learned from the
    first to the last, each as a phase of a recipe.

    Which cells are chosen depends on what the image before has left, so that no batch can be shared
    among devices.

    The metric "loss" is by how much the chosen cells' answers miss 1, which a cell gives to a
    pattern that it has learned; "reinforced" is how many cells an image chooses.

    Attributes:
      model: a network of `dlcore.models.neocognitron`.
      layer: that learns, from 1 on.
    """

    layer: Positive = 1

    parallelisms: ClassVar[tuple[str, ...]] = ("jit",)
    needs: ClassVar[Needs] = {"image": (Image,)}
    # The loss is no aim: it is least where cells answer everything.
    watched_metric: ClassVar[str | None] = None
    model_protocol: ClassVar[type] = SelfOrganizing
    model_inputs: ClassVar[int | None] = 1

    @property
    def one_update_a_step(self) -> bool:
        """False: the optimizer is called once an image."""
        return False

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        """Fresh variables.

        Raises:
          UsageError: the network has no such layer.
        """
        layers = len(self.model.simple_cells())
        if not 1 <= self.layer <= layers:
            raise UsageError(f"layer={self.layer}: the network has the layers 1 to {layers}")
        return super().init(key, batch)

    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        optimizer: optax.GradientTransformation,
    ) -> tuple[TrainState, Metrics]:
        """Learns from each image in turn; metrics are of the answers before each reinforcement."""
        del key
        cells = self.model.simple_cells()[self.layer - 1]

        def learn(
            carry: tuple[Any, Any], example: tuple[jax.Array, jax.Array]
        ) -> tuple[tuple[Any, Any], Metrics]:
            (params, opt_state), (u, mask) = carry, example
            responses: Any = cells.apply({"params": params[self._name]}, u[None])
            chosen = self.model.choose(responses[0])
            own = cells.reinforcement(u, chosen)
            # `where`, not a product: a padded row may hold anything.
            own = jax.tree.map(lambda more: jnp.where(mask > 0, -more, 0), own)
            gradient = {**jax.tree.map(jnp.zeros_like, params), self._name: own}
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            params = optax.apply_updates(params, updates)
            return (params, opt_state), _metrics(responses, chosen[None], mask[None])

        examples = self._inputs(state.variables(), batch), batch["mask"]
        (params, opt_state), metrics = jax.lax.scan(
            learn, (state.params, state.opt_state), examples
        )
        metrics = jax.tree.map(lambda sums: sums.sum(0), metrics)
        return state.replace(params=params, opt_state=opt_state), metrics

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        """Sums for "loss" and "reinforced", of the cells that the images would choose."""
        del key
        cells = self.model.simple_cells()[self.layer - 1]
        u = self._inputs(variables, batch)
        responses: Any = cells.apply({"params": variables["params"][self._name]}, u)
        return _metrics(responses, jax.vmap(self.model.choose)(responses), batch["mask"])

    @property
    def _name(self) -> str:
        return f"layer{self.layer}"

    def _inputs(self, variables: Variables, batch: Batch) -> jax.Array:
        """What the layer sees of each image."""
        _, stages = backbone.collect(self.model, variables, batch["image"])
        return stages[f"input{self.layer}"]


def _metrics(responses: jax.Array, chosen: jax.Array, mask: jax.Array) -> dict[str, Mean]:
    counted = chosen * (mask > 0)[:, None, None, None]
    return {
        "loss": Mean.of(1 - responses, counted),
        "reinforced": Mean.of(chosen.sum((1, 2, 3)), mask),
    }


register("self_organization", SelfOrganization)
