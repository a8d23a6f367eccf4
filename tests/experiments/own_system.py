"""A system of one's own, with two recipes: what `test_own.py` trains by its name.

Nothing imports this file but the programs that are given `tests.experiments.own_system:recipe`.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcore import data, evaluators, models, tasks
from dlcore.data.features import ClassLabel, Image
from dlcore.evaluators import Evaluator, Findings
from dlcore.tasks.classification import Classification
from dlcore.train import Phase, Recipe


def bars(name: str, options: data.ExampleOptions) -> data.Dataset:
    """Images of 4 x 4 pixels in which a row or a column is bright."""
    label = np.arange(240) % 2
    images = np.random.default_rng(0).uniform(0, 0.3, (240, 4, 4, 1)).astype(np.float32)
    images[label == 0, 1] += 0.6
    images[label == 1, :, 2] += 0.6
    features = {"image": Image((4, 4, 1)), "label": ClassLabel(("row", "column"))}
    return data.from_arrays(features, {"train": {"image": images, "label": label}}, options, name)


class TwoLayers(nn.Module):
    """Units and logits.

    Attributes:
      num_classes: number of classes.
      units: in the hidden layer.
      activation: no option of a recipe.
    """

    num_classes: int = 2
    units: int = 3
    activation: Callable[[jax.Array], jax.Array] = nn.tanh

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Dense(self.units, name="hidden")(x.reshape(x.shape[0], -1))
        return nn.Dense(self.num_classes, name="logits")(self.activation(x))


@dataclasses.dataclass(frozen=True)
class Tempered(Classification):
    """Cross-entropy of divided scores.

    Attributes:
      temperature: what they are divided by.
    """

    temperature: float = 1.0

    def metrics(self, outputs, batch):
        return super().metrics(outputs / self.temperature, batch)


@dataclasses.dataclass(frozen=True)
class Surest(Evaluator):
    """The largest probability of a wrong answer."""

    def evaluate(self, trained, split, key):
        probability = trained.rows(trained.learner.predict, split)
        label = np.concatenate([batch["label"] for batch in trained.batches(split)])
        label = label[: len(probability)]
        wrong = np.where(probability.argmax(-1) == label, 0, probability.max(-1))
        return Findings(scalars={"surest_error": float(wrong.max())})


data.register("bars", bars)
models.register(
    "two_layers",
    TwoLayers,
    example_inputs=(jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32),),
    output_shapes=(2, 2),
    parameter_count=59,
    source="these tests",
)
tasks.register("tempered", Tempered)
evaluators.register("surest", Surest)

recipe = Recipe(
    name="bars",
    task="tempered",
    task_options={"temperature": 0.5},
    model="two_layers",
    data="bars",
    data_options={"normalize": "none"},
    evaluators="-filters -learning_curves surest",
    optimizer="adam",
    learning_rate=0.1,
    batch_size=24,
    num_epochs=4,
)

phased = dataclasses.replace(
    recipe,
    name="bars_in_phases",
    phases=(
        Phase("warm", {"learning_rate": 0.01, "num_epochs": 1}),
        Phase("end", {"groups": "hidden/.*:frozen"}),
    ),
)
