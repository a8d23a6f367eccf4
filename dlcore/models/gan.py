"""Generative adversarial networks: a generator and its discriminator in one module.

`gan` is the fully connected pair that Goodfellow et al. (2014), "Generative Adversarial Nets",
trained on MNIST, with the layer sizes of their published configuration (goodfeli/adversarial,
mnist.yaml): a rectifier generator against a maxout discriminator (Goodfellow et al., 2013) with
dropout. One thing differs: images are in [-1, 1], so the generator ends in tanh where theirs ended
in a sigmoid.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlcore.models import registry
from dlcore.nn.activations import maxout
from dlcore.nn.regularization import Dropout
from dlcore.ranges import Positive, Rate


class GAN(nn.Module):
    """A rectifier generator and a maxout discriminator (Goodfellow et al., 2014).

    Attributes:
      image_size: height and width of the images, in pixels.
      image_channels: channels of the images.
      latent_size: numbers that the generator starts from.
      generator_hidden: rectifier units of each hidden layer of the generator.
      discriminator_hidden: maxout units of each hidden layer of the discriminator.
      pieces: linear pieces of a maxout unit.
      input_dropout_rate: probability of dropping a pixel on the discriminator's input.
      hidden_dropout_rate: probability of dropping a hidden unit of the discriminator.
    """

    image_size: Positive = 28
    image_channels: Positive = 1
    latent_size: Positive = 100
    generator_hidden: tuple[Positive, ...] = (1200, 1200)
    discriminator_hidden: tuple[Positive, ...] = (240, 240)
    pieces: Positive = 5
    input_dropout_rate: Rate = 0.2
    hidden_dropout_rate: Rate = 0.5

    def setup(self) -> None:
        """Makes the two players."""
        self.generator = Generator(
            image_shape=(self.image_size, self.image_size, self.image_channels),
            hidden=self.generator_hidden,
        )
        self.discriminator = Discriminator(
            hidden=self.discriminator_hidden,
            pieces=self.pieces,
            input_dropout_rate=self.input_dropout_rate,
            hidden_dropout_rate=self.hidden_dropout_rate,
        )

    def generate(
        self, latent: Float[Array, "batch {self.latent_size}"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Images in [-1, 1], one for each latent vector."""
        return self.generator(latent, train)

    def discriminate(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, " batch"]:
        """The logit of the probability that an image is real, for each image."""
        return self.discriminator(images, train)

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        latent: Float[Array, "batch {self.latent_size}"],
        train: bool = False,
    ) -> tuple[Float[Array, "batch height width channels"], Float[Array, " batch"]]:
        """What `generate` makes of `latent`, and what `discriminate` says of `images`."""
        return self.generate(latent, train), self.discriminate(images, train)


class Generator(nn.Module):
    """Fully connected layers of rectifiers from latent vectors to images.

    Attributes:
      image_shape: height, width and channels of an image.
      hidden: units of each hidden layer.
    """

    image_shape: tuple[int, int, int]
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(
        self, latent: Float[Array, "batch latent"], train: bool
    ) -> Float[Array, "batch height width channels"]:
        """Images in [-1, 1]."""
        del train
        x = latent
        for layer, units in enumerate(self.hidden):
            x = nn.relu(nn.Dense(units, name=f"hidden{layer}")(x))
        x = nn.tanh(nn.Dense(math.prod(self.image_shape), name="image")(x))
        return x.reshape(-1, *self.image_shape)


class Discriminator(nn.Module):
    """Fully connected maxout layers with dropout, from images to logits.

    Attributes:
      hidden: units of each hidden layer.
      pieces: linear pieces over which a unit takes the largest.
      input_dropout_rate: probability of dropping a pixel.
      hidden_dropout_rate: probability of dropping a unit.
    """

    hidden: tuple[int, ...]
    pieces: int
    input_dropout_rate: float
    hidden_dropout_rate: float

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, " batch"]:
        """The logit of each image's probability of being real."""
        x = Dropout(self.input_dropout_rate)(images.reshape(images.shape[0], -1), train)
        for layer, units in enumerate(self.hidden):
            x = maxout(nn.Dense(units * self.pieces, name=f"hidden{layer}")(x), self.pieces)
            x = Dropout(self.hidden_dropout_rate)(x, train)
        return nn.Dense(1, name="logits")(x)[:, 0]


registry.register(
    "gan",
    GAN,
    example_inputs=(
        jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),
        jax.ShapeDtypeStruct((2, 100), jnp.float32),
    ),
    output_shapes=((2, 28, 28, 1), (2,)),
    # Generator 101 * 1200 + 1201 * 1200 + 1201 * 784; discriminator 785 * 1200 + 241 * 1200 + 241.
    parameter_count=3_735_425,
    source="Goodfellow et al. (2014), section 5; sizes of goodfeli/adversarial, mnist.yaml",
)
