"""Two sets without pairs, and a way from each to the other (CycleGAN, Zhu et al., 2017).

Two generators translate, two discriminators judge each its own set. These also see images of the
past (Shrivastava et al., 2017): a pool in the state, the same on every device although each device
makes images of its own share of the batch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from dlcore import data, evaluators, models, parallel, plots, tasks
from dlcore.data.features import Image
from dlcore.evaluators import Evaluator, Findings, Trained
from dlcore.metrics import Mean, Metrics
from dlcore.tasks import Aux, Batch, Learner, TrainState, Variables, descend, init_players
from dlcore.train import Recipe, Run, Session
from tests.guests.harness import Guest

GENERATORS, DISCRIMINATORS = ("to_a", "to_b"), ("judge_a", "judge_b")
OTHER = {"a": "b", "b": "a"}


def turned_digits(name: str, options: data.ExampleOptions) -> data.Dataset:
    """Some of the digits, turned by 90 degrees, black for white."""
    digits = datasets.load_digits().images[:1200] / 16
    images = 1 - np.rot90(digits, axes=(1, 2))[..., None]
    features = {"image": Image(images.shape[1:])}
    return data.from_arrays(features, {"train": {"image": images}}, options, name)


data.register("guest_turned_digits", turned_digits)


class Dense(nn.Module):
    """One hidden layer.

    Attributes:
      outputs: numbers that it gives.
      hidden: units.
    """

    outputs: int
    hidden: int = 128

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.Dense(self.hidden, name="hidden")(images.reshape(images.shape[0], -1))
        return nn.Dense(self.outputs, name="outputs")(nn.leaky_relu(x))


class Translators(nn.Module):
    """Two generators and two discriminators.

    Attributes:
      image_shape: of both sets.
    """

    image_shape: tuple[int, ...] = (8, 8, 1)

    def setup(self) -> None:
        size = int(np.prod(self.image_shape))
        self.to_a, self.to_b = Dense(size), Dense(size)
        self.judge_a, self.judge_b = Dense(1), Dense(1)

    def __call__(self, a: jax.Array, b: jax.Array) -> Any:
        return self.judge(self.translate(b, "a"), "a"), self.judge(self.translate(a, "b"), "b")

    def translate(self, images: jax.Array, to: str) -> jax.Array:
        made = (self.to_a if to == "a" else self.to_b)(images)
        return nn.tanh(made).reshape(-1, *self.image_shape)

    def judge(self, images: jax.Array, side: str) -> jax.Array:
        """How much an image `[batch]` looks like one of that side; 1 is real, 0 is made."""
        return (self.judge_a if side == "a" else self.judge_b)(images)[:, 0]


models.register("guest_translators", Translators)


@dataclasses.dataclass(frozen=True)
class CycleGAN(Learner):
    """Least squares for the players, and the way there and back for the generators.

    Attributes:
      cycle_weight: of the mean absolute error after the way there and back.
      pool_size: images of the past for each discriminator, at least a batch's.
    """

    cycle_weight: float = 10.0
    pool_size: int = 128

    needs: ClassVar[Mapping[str, Any]] = {"image_a": (Image,), "image_b": (Image,)}
    watched_metric: ClassVar[str | None] = None
    evaluators: ClassVar[tuple[str, ...]] = ("guest_translations",)

    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        return batch["image_a"], batch["image_b"]

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        variables = self.init_model(key, *self.describe_inputs(batch))
        # At first the pool is full of what untrained generators make of the first batch.
        shape = (self.pool_size, *self.model.image_shape)
        made = self._both(variables["params"], batch)
        return {**variables, "pool": {side: jnp.resize(made[side], shape) for side in made}}

    def init_optimizer(self, optimizer: optax.GradientTransformation, params: Any) -> Any:
        return init_players(optimizer, params, GENERATORS, DISCRIMINATORS)

    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        optimizer: optax.GradientTransformation,
    ) -> tuple[TrainState, Metrics]:
        made = self._both(state.params, batch)
        state, metrics, _ = descend(
            self._generators_loss, state, batch, key, optimizer, player=GENERATORS
        )
        shown, pool = self.exchange(state.model_state["pool"], made, key)
        state = state.replace(model_state={**state.model_state, "pool": pool})
        state, others, _ = descend(
            self._discriminators_loss,
            state,
            {**batch, **{f"made_{side}": shown[side] for side in OTHER}},
            key,
            optimizer,
            player=DISCRIMINATORS,
        )
        return state, {**metrics, **others}

    def exchange(self, pool: Any, made: Any, key: jax.Array) -> tuple[Any, Any]:
        """Half of the images give way to earlier ones, in whose places they stay."""
        every = parallel.all_gather(made)
        count = every["a"].shape[0]
        swap_key, place_key = jax.random.split(key)
        swapped = jax.random.bernoulli(swap_key, shape=(count, 1, 1, 1))
        places = jax.random.permutation(place_key, self.pool_size)[:count]
        own = parallel.example_positions(made["a"].shape[0])
        shown, after = {}, {}
        for side, past in pool.items():
            shown[side] = jnp.where(swapped, past[places], every[side])[own]
            stays = jnp.where(swapped, every[side], past[places])
            after[side] = past.at[places].set(stays)
        return shown, after

    def _both(self, params: Any, batch: Batch) -> dict[str, jax.Array]:
        """What the generators make, by the side that it is to belong to."""
        return {side: self.translate(params, batch[f"image_{OTHER[side]}"], side) for side in OTHER}

    def translate(self, params: Any, images: jax.Array, to: str) -> jax.Array:
        return self.model.apply({"params": params}, images, to, method="translate")

    def _judge(self, params: Any, images: jax.Array, side: str) -> jax.Array:
        return self.model.apply({"params": params}, images, side, method="judge")

    def _generators_loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del key
        metrics = self._generators_metrics(params, batch)
        loss = metrics["generators_loss"]
        return loss.total, Aux(loss.count, model_state, metrics)

    def _generators_metrics(self, params: Any, batch: Batch) -> dict[str, Mean]:
        losses, cycles = [], []
        for side, made in self._both(params, batch).items():
            images, mask = batch[f"image_{OTHER[side]}"], batch[f"mask_{OTHER[side]}"]
            back = self.translate(params, made, OTHER[side])
            cycle = jnp.abs(back - images).mean((1, 2, 3))
            fooled = jnp.square(self._judge(params, made, side) - 1)
            losses.append(Mean.of(fooled + self.cycle_weight * cycle, mask))
            cycles.append(Mean.of(cycle, mask))
        return {
            "generators_loss": losses[0].merge(losses[1]),
            "cycle_error": cycles[0].merge(cycles[1]),
        }

    def _discriminators_loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del key
        errors = sum(
            jnp.square(self._judge(params, batch[f"image_{side}"], side) - 1)
            + jnp.square(self._judge(params, batch[f"made_{side}"], side))
            for side in OTHER
        )
        loss = Mean.of(errors, batch["mask"])
        return loss.total, Aux(loss.count, model_state, {"loss": loss})

    def there_and_back(self, variables: Variables, batch: Batch) -> dict[str, Any]:
        """Of each side the images, their translations, and these translated back."""
        params, result = variables["params"], {}
        for side, other in OTHER.items():
            images = batch[f"image_{side}"]
            made = self.translate(params, images, other)
            result[side] = images, made, self.translate(params, made, side)
        return result

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        del key
        return self._generators_metrics(variables["params"], batch)


tasks.register("guest_cycle_gan", CycleGAN)


@dataclasses.dataclass(frozen=True)
class Translations(Evaluator):
    """Images of each side, their translations, and these translated back; and the pool."""

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        del key
        rows = trained.rows(trained.learner.there_and_back, split)
        grid = np.concatenate([images[:12] for side in OTHER for images in rows[side]])
        pool = {side: np.asarray(images) for side, images in trained.variables["pool"].items()}
        return Findings(
            figures={"translations": plots.image_grid(grid, columns=12, value_range=(-1, 1))},
            arrays={"pool": pool},
        )


evaluators.register("guest_translations", Translations)

recipe = Recipe(
    name="guest_cycle_gan",
    imports=(__name__,),
    task="guest_cycle_gan",
    model="guest_translators",
    data="unpaired:digits,guest_turned_digits",
    data_options={"normalize": "symmetric"},
    optimizer="adam",
    beta1=0.5,
    learning_rate=2e-3,
    batch_size=64,
    num_epochs=40,
    evaluate_every=20,
)


class TestGuest(Guest):
    stop_after, crash_after, compared_after = 40, 300, 10
    figures = ("translations",)
    arrays = ("pool",)

    def test_translations_look_like_the_other_set_and_lead_back(self, session: Session, run: Run):
        trained = session.trained(run.directory)
        there_and_back = trained.learner.there_and_back
        train, test = (trained.rows(there_and_back, split) for split in ("train", "test"))
        for side, other in OTHER.items():
            images, made, back = test[side]
            real = distance(test[other][0], train[other][0])
            # Of digits that are only inverted, and not turned, it is nine times that.
            assert distance(made, train[other][0]) < 3 * real
            assert np.abs(back - images).mean() < 0.5 * np.abs(images - images.mean(0)).mean()

    def test_an_exchange_with_the_pool_loses_and_doubles_no_image(self, session: Session):
        pool, made = (
            dict(
                zip(
                    OTHER,
                    jax.random.normal(jax.random.key(count), (2, count, 8, 8, 1)),
                    strict=True,
                )
            )
            for count in (128, 64)
        )
        shown, after = session.prepared.learner.exchange(pool, made, jax.random.key(0))
        for side in OTHER:
            before, now = (
                np.sort(np.concatenate(both).sum((1, 2, 3)))
                for both in ((pool[side], made[side]), (after[side], shown[side]))
            )
            np.testing.assert_allclose(now, before, rtol=1e-6)
            assert 16 < (shown[side] != made[side]).any((1, 2, 3)).sum() < 48


def distance(images: np.ndarray, others: np.ndarray) -> float:
    """Mean square of what separates an image from the nearest of the others."""
    images, others = (one.reshape(len(one), -1) for one in (images, others))
    return float(np.square(images[:, None] - others).mean(-1).min(1).mean())
