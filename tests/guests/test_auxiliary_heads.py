"""A classifier with two auxiliary heads that training alone sees (Szegedy et al., 2015, section 5).

They hang on the lower stages and push gradients into them; each one's loss counts 0.3 times. A task
of the library takes them as further outputs. Where a model rather sows what its heads say, so that
its output stays one, a learner of one's own picks that up; the training is the same.
"""

import dataclasses
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy import special

from dlcore import models, tasks
from dlcore.tasks import Aux, Batch
from dlcore.tasks.classification import Classification
from dlcore.train import Recipe, Run, Session
from tests.guests.harness import Guest, assert_close, stop


class Inception(nn.Module):
    """Three convolutional stages with a head each; the last head is the classifier.

    Attributes:
      num_classes: number of classes.
      features: channels of each stage.
      sows: the auxiliary scores are sown into "losses" instead of returned.
    """

    num_classes: int = 10
    features: tuple[int, ...] = (8, 8, 16)
    sows: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Any:
        """Class scores `[batch, classes]`; in training those of the auxiliary heads behind them."""
        x, auxiliary = images, []
        for stage, features in enumerate(self.features):
            x = nn.relu(nn.Conv(features, (3, 3), name=f"stage{stage}_conv")(x))
            if stage == len(self.features) - 1:
                break
            # Their parameters are there from the start, whatever the mode.
            if train or self.is_initializing():
                auxiliary.append(self._head(f"stage{stage}_head", x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        scores = self._head("head", x)
        if self.sows:
            for number, one in enumerate(auxiliary):
                self.sow("losses", f"stage{number}_scores", one)
        return (scores, *auxiliary) if train and not self.sows else scores

    def _head(self, name: str, x: jax.Array) -> jax.Array:
        return nn.Dense(self.num_classes, name=name)(x.mean((1, 2)))


models.register("guest_inception", Inception)


@dataclasses.dataclass(frozen=True)
class SownHeads(Classification):
    """Classification by a model whose auxiliary heads sow their scores."""

    def loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        applied = self.apply(params, model_state, batch["image"], key=key)
        auxiliary = jax.tree.leaves(applied.sown["losses"])
        metrics = self.metrics((applied.outputs, *auxiliary), batch)
        loss = metrics["loss"]
        return loss.total, Aux(loss.count, applied.model_state, metrics)


tasks.register("guest_sown_heads", SownHeads)

recipe = Recipe(
    name="guest_auxiliary_heads",
    imports=(__name__,),
    task="classification",
    task_options={"auxiliary_weight": 0.3},
    model="guest_inception",
    data="digits",
    learning_rate=0.1,
    schedule="cosine",
    batch_size=64,
    num_epochs=8,
    evaluate_every=4,
    log_every=1,
)
sowing = dataclasses.replace(
    recipe,
    name="guest_sown_heads",
    task="guest_sown_heads",
    model_options={"sows": True},
)


class TestGuest(Guest):
    stop_after, crash_after, compared_after = 30, 115, 24
    figures = ("confusion_matrix", "filters")
    arrays = ("test_outputs",)

    def test_it_learns_the_digits(self, run: Run):
        assert run.summary["test"]["accuracy"] > 0.88

    def test_the_auxiliary_losses_count_three_tenths(self, session: Session, run: Run):
        prepared = session.prepared
        batch = prepared.dataset.train_batches(64, recipe.seed).batch(0)
        images = prepared.dataset.transform(batch, jax.random.key(0), True)["image"]
        params = prepared.program.initialize().params
        outputs = prepared.learner.model.apply({"params": params}, images, train=True)
        main, *auxiliary = (cross_entropy(np.float64(one), batch["label"]) for one in outputs)
        assert len(auxiliary) == 2
        first = run.records[0]
        assert first["loss"] == pytest.approx(main + 0.3 * sum(auxiliary), rel=1e-5)

    def test_heads_that_sow_their_scores_train_the_same_network(
        self, session: Session, tmp_path: pathlib.Path
    ):
        params = []
        for name, each in (("sowing", Session(sowing)), ("returning", session)):
            stop(each, tmp_path / name, 15)
            params.append(each.trained(tmp_path / name, "newest").variables["params"])
        assert_close(*params, tolerance=1e-5)


def cross_entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    return -special.log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean()
