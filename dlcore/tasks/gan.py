"""The two players of a generative adversarial network (Goodfellow et al., 2014, Algorithm 1).

The discriminator D and the generator G play for the value

    V(D, G) = E_x[log D(x)] + E_z[log(1 - D(G(z)))]

which D raises and G lowers. A step takes k ascents of D, each on a fresh minibatch of m images and
of m latent vectors, then one descent of G on m fresh latent vectors.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from dlcore import parallel
from dlcore.errors import UsageError
from dlcore.metrics import Mean, Metrics
from dlcore.tasks import base
from dlcore.tasks.base import Batch

# What the generator descends, of the logit of an image that it made. Algorithm 1 prints the
# saturating loss, which is flat where the discriminator is sure; section 3 trains with the other,
# whose dynamics have the same fixed point.
GENERATOR_LOSSES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "non_saturating": lambda logits: jax.nn.softplus(-logits),  # -log D(G(z))
    "saturating": lambda logits: -jax.nn.softplus(logits),  # log(1 - D(G(z)))
}


@dataclasses.dataclass(frozen=True)
class GAN(base.Task):
    """A generator against a discriminator.

    The model has the methods of `dlcore.models.gan.GAN`; images are in [-1, 1]. There is no loss to
    watch: either player's may rise while the game goes well, so the newest checkpoint is the best.

    Attributes:
      generator_loss: "non_saturating", -log D(G(z)), or "saturating", log(1 - D(G(z))).
      discriminator_steps: k, the discriminator's steps for each one of the generator's. A batch is
        cut into k minibatches, one for each.
    """

    watched_metric: ClassVar[str | None] = None
    model_methods: ClassVar[tuple[str, ...]] = ("generate", "discriminate")

    generator_loss: str = "non_saturating"
    discriminator_steps: int = 1

    def __post_init__(self) -> None:
        """Refuses options that are out of range.

        Raises:
          UsageError: an unknown generator loss, or fewer discriminator steps than one.
        """
        if self.generator_loss not in GENERATOR_LOSSES:
            raise UsageError(
                f"--task.generator_loss={self.generator_loss}: "
                f"it is one of {', '.join(GENERATOR_LOSSES)}"
            )
        if self.discriminator_steps < 1:
            raise UsageError(
                f"--task.discriminator_steps={self.discriminator_steps}: it is 1 or more"
            )

    @property
    def one_update_a_step(self) -> bool:
        """Whether each player's optimizer steps once when the loop does."""
        return self.discriminator_steps == 1

    def init(self, rng: jax.Array, batch: Batch) -> dict[str, Any]:
        """Fresh variables of both players.

        Raises:
          UsageError: the model makes images of another shape than the batch's.
        """
        images, latent = self.describe_inputs(batch)
        made = (self.model.image_size, self.model.image_size, self.model.channels)
        if images.shape[1:] != made:
            raise UsageError(
                f"the images are {'x'.join(map(str, images.shape[1:]))}, the generator makes "
                f"{'x'.join(map(str, made))}: set --model.image_size and --model.channels, or "
                "--data.resize"
            )
        return dict(self.model.init(rng, images, latent))

    def init_optimizer(self, optimizer: optax.GradientTransformation, params: Any) -> Any:
        """One state of the same optimizer for each player."""
        return {player: optimizer.init(own) for player, own in params.items()}

    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """A batch's images, and as many latent vectors."""
        images = batch["image"]
        return images, jnp.zeros((images.shape[0], self.model.latent_size), images.dtype)

    def update(
        self, state: Any, batch: Batch, rng: jax.Array, optimizer: optax.GradientTransformation
    ) -> tuple[Any, Metrics]:
        """One iteration of Algorithm 1's outer loop: k steps of D, one of G.

        A schedule in `optimizer` counts the steps of the player that it serves.

        Returns:
          The state after the step, and this device's sums. The metric "loss" is the
          discriminator's, -V(D, G): log 4 where it is always in doubt, 0 where it is always right.

        Raises:
          UsageError: the batch does not divide into k minibatches.
        """
        minibatches = self._minibatches(batch)
        generator_key, discriminator_key = jax.random.split(rng)
        discriminator_keys = jax.random.split(discriminator_key, self.discriminator_steps)

        def discriminator_step(state: Any, inputs: tuple[Batch, jax.Array]) -> tuple[Any, Metrics]:
            return _descend("discriminator", self._discriminator_loss, state, *inputs, optimizer)

        state, stacked = jax.lax.scan(discriminator_step, state, (minibatches, discriminator_keys))
        metrics = jax.tree.map(lambda sums: sums.sum(axis=0), stacked)

        # The generator sees no image; the last minibatch only says how many latent vectors to draw.
        last = jax.tree.map(lambda x: x[-1], minibatches)
        state, generator_metrics = _descend(
            "generator", self._generator_loss, state, last, generator_key, optimizer
        )
        return state, {**metrics, **generator_metrics}

    def evaluate(self, variables: Mapping[str, Any], batch: Batch) -> Metrics:
        """Losses and scores in evaluation mode, every batch against the same latent vectors."""
        mask = batch["mask"]
        latent = self._latent(jax.random.key(0), mask.shape[0])
        play = functools.partial(self.model.apply, variables)
        fake: Any = play(latent, method="generate")
        real_logits: Any = play(batch["image"], method="discriminate")
        fake_logits: Any = play(fake, method="discriminate")
        generator_loss = GENERATOR_LOSSES[self.generator_loss](fake_logits)
        return {
            **_discriminator_metrics(real_logits, fake_logits, mask),
            "generator_loss": Mean.of(generator_loss, mask),
        }

    def sample(self, variables: Mapping[str, Any], rng: jax.Array, count: int) -> jax.Array:
        """`count` images `[count, H, W, C]` in [-1, 1] of the generator."""
        images: Any = self.model.apply(variables, self._latent(rng, count), method="generate")
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
                f"--batch_size gives a device {size} examples, which do not divide into equal "
                f"minibatches for --task.discriminator_steps={steps}"
            )
        return parallel.split_batch({name: batch[name] for name in ("image", "mask")}, steps)

    def _discriminator_loss(
        self, params: Any, model_state: Any, minibatch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        """-V(D, G), summed over pairs of an image and a latent vector."""
        latent_key, fake_key, real_key = jax.random.split(key, 3)
        latent = self._latent(latent_key, minibatch["mask"].shape[0])
        play = functools.partial(self._play, params)
        fake, model_state = play(model_state, "generate", latent, fake_key)
        real_logits, model_state = play(model_state, "discriminate", minibatch["image"], real_key)
        fake_logits, model_state = play(model_state, "discriminate", fake, fake_key)
        metrics = _discriminator_metrics(real_logits, fake_logits, minibatch["mask"])
        return metrics["loss"].total, (model_state, metrics)

    def _generator_loss(
        self, params: Any, model_state: Any, minibatch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        """The chosen loss of the generator, summed over latent vectors."""
        latent_key, play_key = jax.random.split(key)
        latent = self._latent(latent_key, minibatch["mask"].shape[0])
        play = functools.partial(self._play, params)
        fake, model_state = play(model_state, "generate", latent, play_key)
        logits, model_state = play(model_state, "discriminate", fake, play_key)
        loss = Mean.of(GENERATOR_LOSSES[self.generator_loss](logits), minibatch["mask"])
        return loss.total, (model_state, {"generator_loss": loss})

    def _play(
        self, params: Any, model_state: Any, method: str, inputs: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Applies one of the model's methods in training mode."""
        return self.model.apply(
            {"params": params, **model_state},
            inputs,
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state),
            method=method,
        )


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


def _descend(
    player: str,
    loss: Callable[..., tuple[jax.Array, tuple[Any, Metrics]]],
    state: Any,
    minibatch: Batch,
    key: jax.Array,
    optimizer: optax.GradientTransformation,
) -> tuple[Any, Metrics]:
    """One optimizer step of one player on the mean of a loss; the other's parameters stay."""
    own = state.params[player]

    def loss_of_own(own: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        return loss({**state.params, player: own}, state.model_state, minibatch, key)

    gradient, (model_state, metrics) = jax.grad(loss_of_own, has_aux=True)(own)
    gradient, count = parallel.psum((gradient, minibatch["mask"].sum()))
    gradient = jax.tree.map(lambda g: g / jnp.maximum(count, 1), gradient)
    changes, opt_state = optimizer.update(gradient, state.opt_state[player], own)
    state = state.replace(
        params={**state.params, player: optax.apply_updates(own, changes)},
        opt_state={**state.opt_state, player: opt_state},
        model_state=model_state,
    )
    return state, metrics


base.register("gan", GAN)
