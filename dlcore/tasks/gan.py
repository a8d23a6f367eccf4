"""The two players of a generative adversarial network (Goodfellow et al., 2014, Algorithm 1).

The discriminator D and the generator G play for the value

    V(D, G) = E_x[log D(x)] + E_z[log(1 - D(G(z)))]

which D raises and G lowers. A step takes k ascents of D, each on a fresh minibatch of m images and
of m latent vectors, then one descent of G on m fresh latent vectors.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from dlcore import parallel
from dlcore.data import Needs
from dlcore.data.features import Image
from dlcore.errors import UsageError
from dlcore.metrics import Mean, Metrics
from dlcore.ranges import Positive
from dlcore.tasks.descent import Aux, descend, init_players
from dlcore.tasks.learner import Batch, Learner, Variables
from dlcore.tasks.registry import register
from dlcore.tasks.state import TrainState

# Each player's parameters.
GENERATOR, DISCRIMINATOR = ("generator",), ("discriminator",)

# What the generator descends, of the logit of an image that it made. Algorithm 1 prints the
# saturating loss, which is flat where the discriminator is sure; section 3 trains with the other,
# whose dynamics have the same fixed point.
GENERATOR_LOSSES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "non_saturating": lambda logits: jax.nn.softplus(-logits),  # -log D(G(z))
    "saturating": lambda logits: -jax.nn.softplus(logits),  # log(1 - D(G(z)))
}


@runtime_checkable
class TwoPlayers(Protocol):
    """A generator and a discriminator in one module, each with the parameters of its name."""

    def generate(self, latent: jax.Array, train: bool = False) -> jax.Array:
        """Images in -1..1, one for each latent vector."""

    def discriminate(self, images: jax.Array, train: bool = False) -> jax.Array:
        """The logit that an image is real, for each image."""


@dataclasses.dataclass(frozen=True)
class GAN(Learner):
    """A generator against a discriminator.

    The model has the methods of `dlcore.models.gan.GAN`; images are in [-1, 1]. There is no loss to
    watch: either player's may rise while the game goes well, so the newest checkpoint is the best.

    Attributes:
      generator_loss: "non_saturating", -log D(G(z)), or "saturating", log(1 - D(G(z))).
      discriminator_steps: k, the discriminator's steps for each one of the generator's. A batch is
        cut into k minibatches, one for each.
    """

    needs: ClassVar[Needs] = {"image": (Image,)}
    watched_metric: ClassVar[str | None] = None
    evaluators: ClassVar[tuple[str, ...]] = ("samples",)
    model_protocol: ClassVar[type] = TwoPlayers

    generator_loss: str = "non_saturating"
    discriminator_steps: Positive = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generator_loss not in GENERATOR_LOSSES:
            raise UsageError(
                f"generator_loss={self.generator_loss}: it is one of {', '.join(GENERATOR_LOSSES)}"
            )

    @property
    def one_update_a_step(self) -> bool:
        """Whether each player's optimizer steps once when the loop does."""
        return self.discriminator_steps == 1

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        """Fresh variables of both players.

        Raises:
          UsageError: the model makes images of another shape than the batch's.
        """
        images, latent = self.describe_inputs(batch)
        made = (self.model.image_size, self.model.image_size, self.model.image_channels)
        if images.shape[1:] != made:
            raise UsageError(
                f"the images are {'x'.join(map(str, images.shape[1:]))}, the generator makes "
                f"{'x'.join(map(str, made))}: set model.image_size and "
                "model.image_channels, or data.resize"
            )
        return self.init_model(key, images, latent)

    def init_optimizer(self, optimizer: optax.GradientTransformation, params: Any) -> Any:
        """One state of the same optimizer for each player."""
        return init_players(optimizer, params, DISCRIMINATOR, GENERATOR)

    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """A batch's images, and as many latent vectors."""
        images = batch["image"]
        return images, jnp.zeros((images.shape[0], self.model.latent_size), images.dtype)

    def update(
        self,
        state: TrainState,
        batch: Batch,
        key: jax.Array,
        optimizer: optax.GradientTransformation,
    ) -> tuple[TrainState, Metrics]:
        """One iteration of Algorithm 1's outer loop: k steps of D, one of G.

        A schedule in `optimizer` counts the steps of the player that it serves.

        Returns:
          The state after the step, and this device's sums. The metric "loss" is the
          discriminator's, -V(D, G): log 4 where it is always in doubt, 0 where it is always right.

        Raises:
          UsageError: the batch does not divide into k minibatches.
        """
        minibatches = self._minibatches(batch)
        generator_key, discriminator_key = jax.random.split(key)
        discriminator_keys = jax.random.split(discriminator_key, self.discriminator_steps)

        def discriminator_step(
            state: TrainState, inputs: tuple[Batch, jax.Array]
        ) -> tuple[TrainState, Metrics]:
            loss = self._discriminator_loss
            return descend(loss, state, *inputs, optimizer, player=DISCRIMINATOR)[:2]

        state, stacked = jax.lax.scan(discriminator_step, state, (minibatches, discriminator_keys))
        metrics = jax.tree.map(lambda sums: sums.sum(axis=0), stacked)

        # The generator sees no image; the last minibatch only says how many latent vectors to draw.
        last = jax.tree.map(lambda x: x[-1], minibatches)
        state, generator_metrics, _ = descend(
            self._generator_loss, state, last, generator_key, optimizer, player=GENERATOR
        )
        return state, {**metrics, **generator_metrics}

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        """Losses and scores in evaluation mode."""
        mask = batch["mask"]
        latent = self._latent(key, mask.shape[0])
        play = functools.partial(self.model.apply, variables)
        fake: Any = play(latent, method="generate")
        real_logits: Any = play(batch["image"], method="discriminate")
        fake_logits: Any = play(fake, method="discriminate")
        generator_loss = GENERATOR_LOSSES[self.generator_loss](fake_logits)
        return {
            **_discriminator_metrics(real_logits, fake_logits, mask),
            "generator_loss": Mean.of(generator_loss, mask),
        }

    def sample(self, variables: Variables, key: jax.Array, count: int) -> jax.Array:
        """`count` images `[count, H, W, C]` in [-1, 1] of the generator."""
        images: Any = self.model.apply(variables, self._latent(key, count), method="generate")
        return images

    def _latent(self, key: jax.Array, count: int) -> jax.Array:
        """Standard normal `[count, latent_size]`, the same on any number of devices."""
        shape = (self.model.latent_size,)
        return jax.vmap(lambda own: jax.random.normal(own, shape))(
            parallel.example_keys(key, count)
        )

    def _minibatches(self, batch: Batch) -> Batch:
        """The batch with a leading axis of k minibatches, none of which shares an example.

        See `parallel.split_batch`.
        """
        steps, size = self.discriminator_steps, batch["mask"].shape[0]
        if size % steps:
            raise UsageError(
                f"batch_size gives a device {size} examples, which do not divide into equal "
                f"minibatches for discriminator_steps={steps}"
            )
        return parallel.split_batch({name: batch[name] for name in ("image", "mask")}, steps)

    def _discriminator_loss(
        self, params: Any, model_state: Any, minibatch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """-V(D, G), summed over pairs of an image and a latent vector."""
        latent_key, fake_key, real_key = jax.random.split(key, 3)
        latent = self._latent(latent_key, minibatch["mask"].shape[0])
        play = functools.partial(self._play, params)
        fake, model_state = play(model_state, "generate", latent, fake_key)
        real_logits, model_state = play(model_state, "discriminate", minibatch["image"], real_key)
        fake_logits, model_state = play(model_state, "discriminate", fake, fake_key)
        metrics = _discriminator_metrics(real_logits, fake_logits, minibatch["mask"])
        loss = metrics["loss"]
        return loss.total, Aux(loss.count, model_state, metrics)

    def _generator_loss(
        self, params: Any, model_state: Any, minibatch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """The chosen loss of the generator, summed over latent vectors."""
        latent_key, play_key = jax.random.split(key)
        latent = self._latent(latent_key, minibatch["mask"].shape[0])
        play = functools.partial(self._play, params)
        fake, model_state = play(model_state, "generate", latent, play_key)
        logits, model_state = play(model_state, "discriminate", fake, play_key)
        loss = Mean.of(GENERATOR_LOSSES[self.generator_loss](logits), minibatch["mask"])
        return loss.total, Aux(loss.count, model_state, {"generator_loss": loss})

    def _play(
        self, params: Any, model_state: Any, method: str, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        """One of the model's methods in training mode: its outputs and the state after it."""
        return self.apply(params, model_state, inputs, key=key, method=method)[:2]


def _discriminator_metrics(
    real_logits: jax.Array, fake_logits: jax.Array, mask: jax.Array
) -> dict[str, Mean]:
    """-V(D, G) and the mean of D over images and over what the generator made."""
    # log D = -softplus(-logit) and log(1 - D) = -softplus(logit), also where D rounds to 0 or 1.
    loss = Mean.of(jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits), mask)
    return {
        "loss": loss,
        "discriminator_loss": loss,
        "real_score": Mean.of(jax.nn.sigmoid(real_logits), mask),
        "fake_score": Mean.of(jax.nn.sigmoid(fake_logits), mask),
    }


register("gan", GAN)
