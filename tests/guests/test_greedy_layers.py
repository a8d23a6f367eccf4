"""Greedy layer-wise pre-training (Bengio et al., 2007): three phases, and one of fine-tuning.

Each phase adds a sigmoid layer and trains it alone, to give back what the layers below say. The
last phase puts a classifier on top and trains everything. From a random start the same network
learns next to nothing in the same time: its gradients vanish on their way down.
"""

import dataclasses
import itertools
import pathlib
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import data, models, tasks, weights
from dlcore.data.features import Image
from dlcore.metrics import Mean, Metrics
from dlcore.tasks import Aux, Batch, Descent, Variables
from dlcore.train import Phase, Recipe, Run, Session
from dlcore.train.loop import Loop
from tests.guests.harness import Guest


class Stack(nn.Module):
    """Sigmoid layers with a decoder of the topmost, or with a classifier.

    Attributes:
      features: units of each layer.
      depth: how many of the layers there are by now.
      num_classes: number of classes.
      classifies: the layers carry a classifier.
    """

    features: tuple[int, ...] = (48, 32, 24)
    depth: int = 1
    num_classes: int = 10
    classifies: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Any:
        """Class scores, or what the topmost layer sees, twice: as it is, and as it is decoded."""
        x = below = images.reshape(images.shape[0], -1)
        for number in range(self.depth):
            below = x
            x = nn.sigmoid(nn.Dense(self.features[number], name=f"layer{number + 1}")(below))
        if self.classifies:
            return nn.Dense(self.num_classes, name="classifier")(x)
        return below, nn.Dense(below.shape[-1], name="decoder")(x)


models.register("guest_stack", Stack)


@dataclasses.dataclass(frozen=True)
class Greedy(Descent):
    """Squared error between what the topmost layer sees and what is decoded from it."""

    needs: ClassVar[data.Needs] = {"image": (Image,)}

    def loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        applied = self.apply(params, model_state, batch["image"], key=key)
        metrics = self._metrics(applied.outputs, batch)
        return metrics["loss"].total, Aux(metrics["loss"].count, applied.model_state, metrics)

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        return self._metrics(self.model.apply(variables, batch["image"]), batch)

    def _metrics(self, outputs: Any, batch: Batch) -> dict[str, Mean]:
        below, decoded = outputs
        return {"loss": Mean.of(jnp.square(below - decoded).sum(-1), batch["mask"])}


tasks.register("guest_greedy", Greedy)


def added(depth: int, below: str) -> Phase:
    """The phase that trains another layer; the decoder of the phase before is dropped."""
    return Phase(
        f"layer{depth}",
        {
            "model_options": {"depth": depth},
            "groups": f"{below}/.*:frozen",
            "start_mapping": f"layer{depth}/.*<- decoder/.*<- <-decoder/.*",
        },
    )


recipe = Recipe(
    name="guest_greedy_layers",
    imports=(__name__,),
    task="guest_greedy",
    model="guest_stack",
    data="digits",
    data_options={"normalize": "symmetric"},
    optimizer="adam",
    learning_rate=0.02,
    batch_size=64,
    num_epochs=5,
    evaluate_every=5,
    phases=(
        Phase("layer1", {}),
        added(2, below="layer1"),
        added(3, below="layer[12]"),
        Phase(
            "fine_tuning",
            {
                "task": "classification",
                "model_options": {"depth": 3, "classifies": True},
                "start_mapping": "classifier/.*<- <-decoder/.*",
                "optimizer": "momentum",
                "learning_rate": 0.3,
            },
        ),
    ),
)


class TestGuest(Guest):
    stop_after, crash_after, compared_after = 130, 350, 310
    figures = ("confusion_matrix",)
    arrays = ("test_outputs",)
    amplifies_rounding = True

    @pytest.fixture(scope="class")
    @classmethod
    def phases(cls, session: Session, run: Run) -> list[dict[str, np.ndarray]]:
        """The weights by path at the end of each of the greedy phases."""
        return [
            weights.flatten(session.trained(run.directory, phase=phase.name).variables)
            for phase in recipe.phases[:-1]
        ]

    def test_a_phase_trains_its_own_layer_alone(self, phases: list[dict[str, np.ndarray]]):
        for depth, (before, after) in enumerate(itertools.pairwise(phases), start=1):
            for layer in range(1, depth + 1):
                for name in (f"layer{layer}/kernel", f"layer{layer}/bias"):
                    assert np.asarray(after[name]).tobytes() == np.asarray(before[name]).tobytes()
            assert f"layer{depth + 1}/kernel" in after.keys() - before.keys()

    def test_what_was_learned_greedily_is_worth_more_than_a_random_start(
        self, session: Session, run: Run, tmp_path: pathlib.Path
    ):
        alone = session.prepared
        loop = Loop(alone.program, alone.dataset, alone.plan, tmp_path, seed=recipe.seed)
        assert run.summary["best"]["value"] > 0.8
        assert loop.run().best["value"] < 0.5
