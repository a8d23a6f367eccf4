"""A classifier that grows in the middle of its training, as the networks of Karras et al. (2018).

The first phase sees images of 4 x 4 pixels. The second sees 8 x 8, through a new stage below the
old ones that is faded in: at first its weight is 0, and the network says what it said before.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcore import models, weights
from dlcore.train import Phase, Recipe, Run, Session
from tests.guests.harness import KilledGuest


class Growing(nn.Module):
    """Stages for images of 4, 8, 16, ... pixels, each of which halves what it sees.

    Attributes:
      image_size: pixels of a side; it settles how many stages there are.
      num_classes: number of classes.
      features: channels of each stage.
      fade_steps: steps of training in which the newest stage is faded in.
    """

    image_size: int = 4
    num_classes: int = 10
    features: int = 16
    fade_steps: int = 40

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Class scores `[batch, classes]`."""
        size = self.image_size
        x = self._seen(size, images)
        if size > 4:
            x = halved(self._convolution(f"stage{size}", x))
            size //= 2
            weight = self._fading(train)
            x = weight * x + (1 - weight) * self._seen(size, halved(images))
        while size > 4:
            x = halved(self._convolution(f"stage{size}", x))
            size //= 2
        x = self._convolution("stage4", x).reshape(x.shape[0], -1)
        return nn.Dense(self.num_classes, name="classifier")(x)

    def _seen(self, size: int, images: jax.Array) -> jax.Array:
        return nn.relu(nn.Conv(self.features, (1, 1), name=f"from_pixels{size}")(images))

    def _convolution(self, name: str, x: jax.Array) -> jax.Array:
        return nn.relu(nn.Conv(self.features, (3, 3), name=name)(x))

    def _fading(self, train: bool) -> jax.Array:
        """The weight of the newest stage, which every step of training raises."""
        weight = self.variable("fading", "weight", jnp.zeros, ())
        now = weight.value
        if train:
            weight.value = jnp.minimum(now + 1 / self.fade_steps, 1.0)
        return now


def halved(images: jax.Array) -> jax.Array:
    return nn.avg_pool(images, (2, 2), (2, 2))


models.register("guest_growing", Growing)

recipe = Recipe(
    name="guest_growing",
    imports=(__name__,),
    model="guest_growing",
    data="digits",
    data_options={"normalize": "symmetric"},
    learning_rate=0.1,
    batch_size=64,
    num_epochs=4,
    evaluate_every=2,
    phases=(
        Phase("four_pixels", {"data_options": {"resize": 4}}),
        Phase(
            "eight_pixels",
            {
                "data_options": {"resize": 8},
                "start_mapping": "(stage8|from_pixels8)/.*<- fading/.*<-",
            },
        ),
    ),
)


class TestGuest(KilledGuest):
    stop_after, crash_after, compared_after = 50, 133, 90
    figures = ("confusion_matrix",)

    def test_it_has_grown(self, session: Session):
        sizes = [each.dataset.facts["image_size"] for each in session.phases]
        assert sizes == [4, 8]
        small, large = (each.program.abstract_state.params for each in session.phases)
        assert large.keys() - small.keys() == {"stage8", "from_pixels8"}

    def test_the_new_stage_changes_nothing_before_it_is_faded_in(self, session: Session, run: Run):
        small = session.trained(run.directory, phase="four_pixels")
        large = session.phases[1]
        source = weights.flatten(small.variables)
        grown = large.program.initialize(source, large.recipe.start_mapping).variables()
        images = np.random.default_rng(0).uniform(-1, 1, (16, 8, 8, 1)).astype(np.float32)
        np.testing.assert_allclose(
            large.learner.model.apply(grown, images),
            small.learner.model.apply(small.variables, halved(images)),
            rtol=1e-5,
            atol=1e-5,
        )

    def test_more_pixels_tell_more(self, run: Run):
        accuracy = run.metrics["validation"]["accuracy"]
        assert len(accuracy) == 4
        assert accuracy[-1] > accuracy[1]
        assert run.summary["test"]["accuracy"] > 0.9
