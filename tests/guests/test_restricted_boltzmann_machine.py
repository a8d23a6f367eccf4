"""A restricted Boltzmann machine (Smolensky, 1986), learned by persistent contrastive divergence.

What the model believes is sampled by chains that are never restarted (Tieleman, 2008), one for each
example of the batch: state that belongs to examples. No loss is descended; the update is the
difference of two averages.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlcore import data, evaluators, models, parallel, plots, tasks
from dlcore.data.features import Image
from dlcore.evaluators import Evaluator, Findings, Trained
from dlcore.metrics import Mean, Metrics
from dlcore.tasks import Batch, Learner, TrainState, Variables
from dlcore.train import Recipe, Run
from tests.guests.harness import KilledGuest


class Machine(nn.Module):
    """Visible and hidden units, each 0 or 1, with weights between the two kinds.

    Attributes:
      image_shape: of the visible units.
      hidden: number of hidden units.
    """

    image_shape: tuple[int, ...] = (8, 8, 1)
    hidden: int = 64

    def setup(self) -> None:
        visible = int(np.prod(self.image_shape))
        self.weights = self.param("weights", nn.initializers.normal(0.01), (visible, self.hidden))
        self.visible_bias = self.param("visible_bias", nn.initializers.zeros, (visible,))
        self.hidden_bias = self.param("hidden_bias", nn.initializers.zeros, (self.hidden,))

    def __call__(self, visible: jax.Array) -> jax.Array:
        """The probability of each hidden unit, `[batch, hidden]`."""
        return nn.sigmoid(visible @ self.weights + self.hidden_bias)

    def visible(self, hidden: jax.Array) -> jax.Array:
        """The probability of each visible unit, `[batch, pixels]`."""
        return nn.sigmoid(hidden @ self.weights.T + self.visible_bias)


models.register("guest_machine", Machine)


@dataclasses.dataclass(frozen=True)
class PersistentDivergence(Learner):
    """Persistent contrastive divergence; pixels are probabilities, in 0..1.

    Attributes:
      gibbs_steps: of each chain in an update.
    """

    gibbs_steps: int = 1

    needs: ClassVar[data.Needs] = {"image": (Image,)}
    state_kinds: ClassVar[Mapping[str, parallel.Kind]] = {"chains": "examples"}
    evaluators: ClassVar[tuple[str, ...]] = ("guest_machine",)

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        pixels = _pixels(batch)
        model_key, chain_key = jax.random.split(key)
        chains = jnp.round(jax.random.uniform(chain_key, pixels.shape))
        return {**self.init_model(model_key, pixels), "chains": {"visible": chains}}

    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        optimizer: optax.GradientTransformation,
    ) -> tuple[TrainState, Metrics]:
        variables = {"params": state.params}
        chains = state.model_state["chains"]["visible"]
        for step in range(self.gibbs_steps):
            hidden_key, visible_key = jax.random.split(jax.random.fold_in(key, step))
            hidden = _draw(hidden_key, self.model.apply(variables, chains))
            visible = self.model.apply(variables, hidden, method="visible")
            chains = _draw(visible_key, visible)
        believed = self._averages(variables, chains, jnp.ones(chains.shape[0]))
        seen = self._averages(variables, _pixels(batch), batch["mask"])
        gradient = jax.tree.map(jnp.subtract, believed, seen)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        state = state.replace(
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            model_state={"chains": {"visible": chains}},
        )
        return state, self.evaluate(variables, batch, key)

    def _averages(self, variables: Variables, visible: jax.Array, mask: jax.Array) -> Any:
        """Of the derivatives of minus the energy, over all devices."""
        visible, hidden = visible * mask[:, None], self.model.apply(variables, visible)
        sums = {
            "weights": visible.T @ hidden,
            "visible_bias": visible.sum(0),
            "hidden_bias": mask @ hidden,
        }
        sums, count = parallel.psum((sums, mask.sum()))
        return jax.tree.map(lambda total: total / jnp.maximum(count, 1), sums)

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        errors = jnp.square(self.reconstruct(variables, batch, key) - batch["image"])
        return {"loss": Mean.of(errors.mean((1, 2, 3)), batch["mask"])}

    def reconstruct(self, variables: Variables, batch: Batch, key: jax.Array) -> jax.Array:
        """Without a draw: from probabilities to probabilities."""
        del key
        weights = {"params": variables["params"]}
        hidden = self.model.apply(weights, _pixels(batch))
        return self.model.apply(weights, hidden, method="visible").reshape(batch["image"].shape)


def _pixels(batch: Batch) -> jax.Array:
    return batch["image"].reshape(batch["image"].shape[0], -1)


def _draw(key: jax.Array, probabilities: jax.Array) -> jax.Array:
    """Units that are 1 with these probabilities, the same on any number of devices."""
    keys = parallel.example_keys(key, probabilities.shape[0])
    uniform = jax.vmap(lambda own: jax.random.uniform(own, probabilities.shape[1:]))(keys)
    return (uniform < probabilities).astype(probabilities.dtype)


tasks.register("guest_persistent_divergence", PersistentDivergence)


@dataclasses.dataclass(frozen=True)
class Shown(Evaluator):
    """What each hidden unit looks for, and what the chains dream of."""

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        shape = trained.learner.model.image_shape
        weights = np.asarray(trained.variables["params"]["weights"])
        chains = np.asarray(trained.variables["chains"]["visible"])
        return Findings(
            figures={
                "machine_filters": plots.filters(weights.reshape(*shape, -1)),
                "chains": plots.image_grid(chains.reshape(-1, *shape)),
            },
            arrays={"chains": {"visible": chains}},
        )


evaluators.register("guest_machine", Shown)

recipe = Recipe(
    name="guest_machine",
    imports=(__name__,),
    task="guest_persistent_divergence",
    model="guest_machine",
    data="digits",
    data_options={"normalize": "none"},
    optimizer="momentum",
    learning_rate=0.05,
    schedule="cosine",
    batch_size=64,
    num_epochs=30,
    evaluate_every=6,
)


class TestGuest(KilledGuest):
    stop_after, crash_after, compared_after = 130, 415, 50
    figures = ("machine_filters", "chains")
    arrays = ("chains",)

    def test_it_gives_images_back_better_than_their_mean_does(self, run: Run):
        images = _images(run, "test")
        blind = np.square(images - _images(run, "train").mean(0)).mean()
        assert run.summary["test"]["loss"] < 0.65 * blind

    def test_the_chains_have_moved_to_where_the_images_are(self, run: Run):
        images = _images(run, "train").mean(0).ravel()
        chains = run.arrays("chains")["visible"].mean(0)
        assert np.abs(chains - images).mean() < 0.3 * np.abs(0.5 - images).mean()


def _images(run: Run, split: str) -> np.ndarray:
    batches = run.dataset.evaluation_batches(split, 64)
    return np.concatenate([batch["image"][batch["mask"] > 0] for batch in batches])
