"""A variational autoencoder (Kingma and Welling, 2014): a code with noise, and samples.

The decoder gives the mean of a normal distribution of the pixels; their common variance is learned.
With a linear encoder and decoder the best such model is probabilistic principal component analysis
(Lucas et al., 2019), whose likelihood is known in closed form: the bound to beat.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from dlcore import data, evaluators, models, parallel, plots, tasks
from dlcore.data.features import Image
from dlcore.evaluators import Evaluator, Findings, Trained
from dlcore.metrics import Mean, Metrics
from dlcore.tasks import Aux, Batch, Descent, Variables
from dlcore.train import Recipe, Run
from tests.guests.harness import Guest


class Autoencoder(nn.Module):
    """An encoder and a decoder with a hidden layer each.

    Attributes:
      image_shape: what is encoded.
      latent_size: numbers in a code.
      hidden: units of each hidden layer.
    """

    image_shape: tuple[int, ...] = (8, 8, 1)
    latent_size: int = 4
    hidden: int = 128

    def setup(self) -> None:
        self.encoder_hidden, self.decoder_hidden = nn.Dense(self.hidden), nn.Dense(self.hidden)
        self.code = nn.Dense(2 * self.latent_size)
        self.image = nn.Dense(int(np.prod(self.image_shape)))
        self.log_variance = self.param("log_variance", nn.initializers.zeros, ())

    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """The mean of the pixels given a code that is drawn, and the code's mean and deviation."""
        del train
        mean, deviation = self.encode(images)
        keys = parallel.example_keys(self.make_rng("latent"), images.shape[0])
        noise = jax.vmap(lambda key: jax.random.normal(key, (self.latent_size,)))(keys)
        return self.decode(mean + deviation * noise), mean, deviation, self.log_variance

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and deviation of each image's code, `[batch, latent_size]`."""
        hidden = nn.tanh(self.encoder_hidden(images.reshape(images.shape[0], -1)))
        mean, log_deviation = jnp.split(self.code(hidden), 2, axis=-1)
        return mean, jnp.exp(log_deviation)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Images `[batch, height, width, channels]` for codes `[batch, latent_size]`."""
        return self.image(nn.tanh(self.decoder_hidden(codes))).reshape(-1, *self.image_shape)


models.register("guest_autoencoder", Autoencoder)


@dataclasses.dataclass(frozen=True)
class Variational(Descent):
    """Minus the evidence lower bound, in nats an image; one code is drawn for each image."""

    needs: ClassVar[data.Needs] = {"image": (Image,)}
    rngs: ClassVar[tuple[str, ...]] = ("latent",)
    evaluators: ClassVar[tuple[str, ...]] = ("samples", "guest_reconstructions")

    def loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        applied = self.apply(params, model_state, batch["image"], key=key)
        metrics = self._metrics(applied.outputs, batch)
        loss = metrics["loss"]
        return loss.total, Aux(loss.count, applied.model_state, metrics)

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        return self._metrics(self._play(variables, batch["image"], key), batch)

    def encode(self, variables: Variables, batch: Batch) -> jax.Array:
        return self.model.apply(variables, batch["image"], method="encode")[0]

    def decode(self, variables: Variables, codes: jax.Array) -> jax.Array:
        return self.model.apply(variables, codes, method="decode")

    def reconstruct(self, variables: Variables, batch: Batch, key: jax.Array) -> jax.Array:
        return self._play(variables, batch["image"], key)[0]

    def sample(self, variables: Variables, key: jax.Array, count: int) -> jax.Array:
        return self.decode(variables, jax.random.normal(key, (count, self.model.latent_size)))

    def _play(self, variables: Variables, images: jax.Array, key: jax.Array) -> Any:
        return self.model.apply(variables, images, rngs={"latent": key})

    def _metrics(self, outputs: Any, batch: Batch) -> dict[str, Mean]:
        pixels, mean, deviation, log_variance = outputs
        errors = jnp.square(pixels - batch["image"]) / jnp.exp(log_variance)
        likelihood = -0.5 * (errors + log_variance + jnp.log(2 * jnp.pi)).sum((1, 2, 3))
        divergence = 0.5 * (jnp.square(mean) + jnp.square(deviation) - 1).sum(-1)
        divergence -= jnp.log(deviation).sum(-1)
        return {
            "loss": Mean.of(divergence - likelihood, batch["mask"]),
            "divergence": Mean.of(divergence, batch["mask"]),
        }


tasks.register("guest_variational", Variational)


@dataclasses.dataclass(frozen=True)
class Reconstructions(Evaluator):
    """Some images, and below each what became of it."""

    ability: ClassVar[type] = tasks.Reconstructs

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        images = trained.rows(_images, split)
        again = trained.rows(trained.learner.reconstruct, split, key)
        grid = np.concatenate([images[:10], again[:10]])
        figure = plots.image_grid(grid, columns=10, value_range=(-1, 1))
        return Findings(
            scalars={"reconstruction_error": float(np.square(images - again).mean())},
            figures={"reconstructions": figure},
        )


def _images(variables: Variables, batch: Batch) -> jax.Array:
    del variables
    return batch["image"]


evaluators.register("guest_reconstructions", Reconstructions)

recipe = Recipe(
    name="guest_variational",
    imports=(__name__,),
    task="guest_variational",
    model="guest_autoencoder",
    data="digits",
    data_options={"normalize": "symmetric"},
    optimizer="adam",
    learning_rate=5e-3,
    batch_size=64,
    num_epochs=20,
    evaluate_every=5,
)


class TestGuest(Guest):
    stop_after, crash_after, compared_after = 130, 233, 50
    figures = ("samples", "reconstructions")
    amplifies_rounding = True

    def test_it_encodes_decodes_reconstructs_and_samples(self, run: Run):
        trained = run.trained()
        for ability in (tasks.Encodes, tasks.Decodes, tasks.Reconstructs, tasks.Samples):
            assert isinstance(trained.learner, ability)
        images = trained.rows(_images, "test")
        codes = trained.rows(trained.learner.encode, "test")
        again = trained.learner.decode(trained.variables, codes)
        assert np.square(again - images).mean() < 0.6 * np.square(images - images.mean(0)).mean()

    def test_it_explains_images_better_than_a_linear_model_of_as_many_codes(self, run: Run):
        trained = run.trained()
        train, test = (trained.rows(_images, split) for split in ("train", "test"))
        linear = principal_components_likelihood(train, test, trained.learner.model.latent_size)
        assert -run.summary["test"]["loss"] > linear + 3


def principal_components_likelihood(train: np.ndarray, test: np.ndarray, latent_size: int) -> float:
    """Mean log likelihood in nats an image of the fit to `train` (Tipping and Bishop, 1999)."""
    train, test = (np.float64(images.reshape(len(images), -1)) for images in (train, test))
    values, vectors = np.linalg.eigh(np.cov(train.T, bias=True))
    noise = values[:-latent_size].mean()
    excess = np.where(np.arange(len(values)) < len(values) - latent_size, 0, values - noise)
    covariance = vectors * (noise + excess) @ vectors.T
    return float(stats.multivariate_normal(train.mean(0), covariance).logpdf(test).mean())
