"""A trunk of published weights that stays as it is, with a new classifier (Yosinski et al., 2014).

The weights come from a `.safetensors` file whose layers have other names, and whose own head is of
no use. They were learned from another question: which segments of a display show the digit.
"""

import flax.linen as nn
import jax
import numpy as np
import pytest

from dlcore import models, weights
from dlcore.train import Recipe, Run, Session
from tests.guests.harness import Guest


class Transferred(nn.Module):
    """A hidden layer, the trunk, and a classifier.

    Attributes:
      num_classes: number of classes.
      features: units of the trunk.
    """

    num_classes: int = 10
    features: int = 48

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Class scores `[batch, classes]`."""
        x = images.reshape(images.shape[0], -1)
        x = nn.tanh(nn.Dense(self.features, name="trunk")(x))
        return nn.Dense(self.num_classes, name="head")(x)


models.register("guest_transferred", Transferred)

published = Recipe(
    name="segments",
    task="multi_label",
    model="mlp",
    model_options={"hidden": (48,)},
    data="digits_segments",
    learning_rate=0.1,
    batch_size=64,
    num_epochs=6,
    evaluate_every=6,
)


def transferred(file: str) -> Recipe:
    return Recipe(
        name="guest_frozen_trunk",
        imports=(__name__,),
        start_from=file,
        start_mapping=r"trunk/(.*)<-hidden0/\1 head/.*<- <-logits/.*",
        groups="trunk/.*:frozen",
        model="guest_transferred",
        data="digits",
        learning_rate=0.1,
        weight_decay=1e-4,
        batch_size=64,
        num_epochs=5,
        evaluate_every=2,
    )


class TestGuest(Guest):
    stop_after, crash_after, compared_after = 30, 75, 24
    figures = ("confusion_matrix",)

    @pytest.fixture(scope="class")
    @classmethod
    def recipe(cls, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
        directory = tmp_path_factory.mktemp("published")
        Session(published).run(directory / "run")
        file = str(directory / "segments.safetensors")
        weights.write(file, Run(directory / "run").trained().variables)
        return transferred(file)

    def test_frozen_weights_are_those_of_the_file_to_the_last_bit(
        self, recipe: Recipe, session: Session, run: Run
    ):
        file = weights.read(recipe.start_from)
        trained = session.trained(run.directory, "newest").variables["params"]
        start = session.prepared.program.initialize().params
        for name in ("kernel", "bias"):
            assert np.asarray(trained["trunk"][name]).tobytes() == file[f"hidden0/{name}"].tobytes()
            assert np.asarray(trained["head"][name] != start["head"][name]).all()

    def test_a_new_head_is_enough(self, run: Run):
        assert run.summary["test"]["accuracy"] > 0.9
