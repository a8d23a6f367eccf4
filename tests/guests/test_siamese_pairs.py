"""Siamese pairs: one network sees two images and learns how near they are (Bromley et al., 1993).

The contrastive loss (Hadsell et al., 2006) draws codes of one class together and pushes those of
two classes apart. No class is ever named to the network; once it is trained, one example of each is
enough to name all others by the nearest neighbor.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from dlcore import data, evaluators, models, plots, tasks
from dlcore.data.features import ClassLabel, Images
from dlcore.evaluators import Evaluator, Findings, Trained
from dlcore.metrics import Mean, Metrics
from dlcore.tasks import Aux, Batch, Descent, Variables
from dlcore.train import Recipe, Run, Session
from tests.guests.harness import Guest


def pairs(name: str, options: data.ExampleOptions) -> data.Dataset:
    """Two digits each, of one class in half of the pairs; no image is in pairs of both splits."""
    digits = datasets.load_digits()
    rng = np.random.default_rng(0)
    splits = {}
    for split, own, count in (("train", slice(1200), 4000), ("test", slice(1200, None), 600)):
        images, labels = digits.images[own] / 16, digits.target[own]
        first, second = rng.integers(len(labels), size=(2, count))
        for place in range(0, count, 2):
            second[place] = rng.choice(np.flatnonzero(labels == labels[first[place]]))
        splits[split] = {
            "images": np.stack([images[first], images[second]], 1)[..., None],
            "first": labels[first],
            "second": labels[second],
        }
    classes = ClassLabel(tuple("0123456789"))
    features = {"images": Images((2, 8, 8, 1)), "first": classes, "second": classes}
    return data.from_arrays(features, splits, options, name)


data.register("guest_pairs", pairs)


class Embedding(nn.Module):
    """A code for each image.

    Attributes:
      size: numbers in a code.
      hidden: units of the hidden layer.
    """

    size: int = 8
    hidden: int = 128

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Codes `[..., size]` of images `[..., height, width, channels]`."""
        del train
        flat = images.reshape(*images.shape[:-3], -1)
        return nn.Dense(self.size, name="code")(nn.relu(nn.Dense(self.hidden, name="hidden")(flat)))


models.register("guest_embedding", Embedding)


@dataclasses.dataclass(frozen=True)
class Contrastive(Descent):
    """Near where two images are of one class, and at least a margin apart where they are not.

    Attributes:
      margin: the distance beyond which two classes are far enough from each other.
    """

    margin: float = 1.0

    needs: ClassVar[Mapping[str, Any]] = {
        "images": (Images,),
        "first": (ClassLabel,),
        "second": (ClassLabel,),
    }
    evaluators: ClassVar[tuple[str, ...]] = ("guest_one_shot",)

    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        return (batch["images"],)

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        return self.init_model(key, *self.describe_inputs(batch))

    def loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        applied = self.apply(params, model_state, batch["images"], key=key)
        metrics = self._metrics(applied.outputs, batch)
        loss = metrics["loss"]
        return loss.total, Aux(loss.count, applied.model_state, metrics)

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        del key
        return self._metrics(self.encode(variables, batch), batch)

    def encode(self, variables: Variables, batch: Batch) -> jax.Array:
        return self.model.apply(variables, batch["images"])

    def _metrics(self, codes: jax.Array, batch: Batch) -> dict[str, Mean]:
        square = jnp.square(codes[:, 0] - codes[:, 1]).sum(-1)
        # The root's slope at 0 would not be finite.
        distance = jnp.sqrt(square + 1e-12)
        same = batch["first"] == batch["second"]
        apart = jnp.square(jnp.maximum(self.margin - distance, 0))
        right = (distance < self.margin / 2) == same
        return {
            "loss": Mean.of(jnp.where(same, square, apart), batch["mask"]),
            "accuracy": Mean.of(right, batch["mask"]),
        }


tasks.register("guest_contrastive", Contrastive)


@dataclasses.dataclass(frozen=True)
class OneShot(Evaluator):
    """Each image against one example of each class of the split, drawn anew `trials` times.

    Attributes:
      trials: to draw.
    """

    trials: int = 50

    ability: ClassVar[type] = tasks.Encodes

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        codes = trained.rows(trained.learner.encode, split).reshape(-1, trained.learner.model.size)
        classes, pixels = trained.rows(_classes_and_pixels, split)
        classes = classes.ravel()
        seed = int(jax.random.bits(key))
        score = {
            name: one_shot_accuracy(points, classes, self.trials, seed)
            for name, points in (("codes", codes), ("pixels", pixels.reshape(len(classes), -1)))
        }
        x, y = np.linalg.svd(codes - codes.mean(0), full_matrices=False)[2][:2] @ codes.T
        lines = [
            plots.Line(x[classes == own], y[classes == own], str(own), "points")
            for own in np.unique(classes)
        ]
        figure = plots.line_panels([plots.Panel(f"codes, {split}", lines)])
        return Findings(
            scalars={"one_shot_accuracy": score["codes"], "one_shot_of_pixels": score["pixels"]},
            figures={"codes": figure},
        )


def _classes_and_pixels(variables: Variables, batch: Batch) -> tuple[jax.Array, jax.Array]:
    del variables
    return jnp.stack([batch["first"], batch["second"]], 1), batch["images"]


def one_shot_accuracy(points: np.ndarray, classes: np.ndarray, trials: int, seed: int) -> float:
    """How often the nearest of one example of each class is of the right class.

    Args:
      points: `[examples, size]`.
      classes: `[examples]`.
      trials: draws of one example of each class.
      seed: of the draws.
    """
    rng, right = np.random.default_rng(seed), []
    for _ in range(trials):
        shown = np.array([rng.choice(np.flatnonzero(classes == own)) for own in np.unique(classes)])
        distances = np.linalg.norm(points[:, None] - points[shown], axis=-1)
        asked = ~np.isin(np.arange(len(points)), shown)
        right.append((classes[shown][distances.argmin(1)] == classes)[asked].mean())
    return float(np.mean(right))


evaluators.register("guest_one_shot", OneShot)

recipe = Recipe(
    name="guest_siamese_pairs",
    imports=(__name__,),
    task="guest_contrastive",
    model="guest_embedding",
    data="guest_pairs",
    data_options={"normalize": "none"},
    learning_rate=0.1,
    schedule="cosine",
    batch_size=64,
    num_epochs=6,
    evaluate_every=3,
)


class TestGuest(Guest):
    stop_after, crash_after, compared_after = 130, 200, 20
    figures = ("codes",)

    def test_one_example_of_each_class_names_images_that_were_never_seen(self, run: Run):
        test = run.summary["test"]
        assert test["one_shot_accuracy"] > max(0.8, test["one_shot_of_pixels"] + 0.1)
        assert test["accuracy"] > 0.87

    def test_the_loss_is_the_published_one(self, session: Session, run: Run):
        trained = session.trained(run.directory)
        first, second = np.moveaxis(trained.rows(trained.learner.encode, "test"), 1, 0)
        classes, _ = trained.rows(_classes_and_pixels, "test")
        distance = np.linalg.norm(first - second, axis=1)
        apart = np.where(distance < 1, (1 - distance) ** 2, 0)
        losses = np.where(classes[:, 0] == classes[:, 1], distance**2, apart)
        assert run.summary["test"]["loss"] == pytest.approx(losses.mean(), rel=1e-4)


def test_shown_one_of_each_the_nearest_names_the_others():
    points, classes = np.array([[0.0], [1.0], [10.0], [4.0]]), np.array([0, 0, 1, 1])
    # All others where 4 is shown; where 10 is, 4 is taken for the other class: 1 and 1/2 alike.
    assert one_shot_accuracy(points, classes, 1000, 0) == pytest.approx(0.75, abs=0.04)
