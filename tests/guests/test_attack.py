"""Attacks on trained networks, and training against them (Goodfellow et al., 2015).

A step along the sign of the loss's gradient, by the same amount in every pixel, misleads a network
that was trained as usual: the victim, which the recipe needs first. A second one starts from it and
learns from attacked images.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import evaluators, plots, tasks
from dlcore.evaluators import Evaluator, Findings, Trained
from dlcore.tasks import Aux, Batch, Learner, Variables
from dlcore.tasks.classification import Classification
from dlcore.train import Need, Recipe, Run
from tests.guests.harness import KilledGuest


def attacked(learner: Learner, variables: Variables, batch: Batch, strength: Any) -> jax.Array:
    """The fast gradient sign method, on images in -1..1."""

    def loss(images: jax.Array) -> jax.Array:
        probabilities = learner.predict(variables, {**batch, "image": images})
        own = jnp.take_along_axis(probabilities, batch["label"][:, None], axis=1)
        return -jnp.log(own + 1e-12).sum()

    images = batch["image"]
    return jnp.clip(images + strength * jnp.sign(jax.grad(loss)(images)), -1, 1)


@dataclasses.dataclass(frozen=True)
class AgainstAttacks(Classification):
    """Classification of images that are attacked while the network learns.

    Attributes:
      strength: by how much each pixel is moved.
    """

    strength: float = 0.2

    evaluators: ClassVar[tuple[str, ...]] = ("guest_attack",)

    def loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        images = attacked(self, {"params": params, **model_state}, batch, self.strength)
        return super().loss(params, model_state, {**batch, "image": images}, key)


tasks.register("guest_against_attacks", AgainstAttacks)


@dataclasses.dataclass(frozen=True)
class Survives:
    """Whether a network is right about an image that was attacked with its own gradient."""

    learner: Learner

    def __call__(self, variables: Variables, batch: Batch, strength: jax.Array) -> jax.Array:
        images = attacked(self.learner, variables, batch, strength)
        predicted = self.learner.predict(variables, {**batch, "image": images})
        return predicted.argmax(-1) == batch["label"]


@dataclasses.dataclass(frozen=True)
class UnderAttack(Evaluator):
    """Accuracy over the strength of the attack: of the victim, and of what has learned from it.

    Attributes:
      strongest: the largest step.
      count: steps from 0 to the largest.
    """

    strongest: float = 0.4
    count: int = 5

    ability: ClassVar[type] = tasks.Predicts
    needed: ClassVar[tuple[str, ...]] = ("victim",)

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        strengths = np.linspace(0, self.strongest, self.count, dtype=np.float32)
        networks = {"victim": trained.needed["victim"], "trained": trained}
        accuracy = {
            name: np.array(
                [one.rows(Survives(one.learner), split, each).mean() for each in strengths]
            )
            for name, one in networks.items()
        }
        lines = [plots.Line(strengths, values, name) for name, values in accuracy.items()]
        panel = plots.Panel("under attack", lines, "step in every pixel", "accuracy")
        return Findings(
            scalars={f"{name}_under_attack": float(a[-1]) for name, a in accuracy.items()},
            figures={"under_attack": plots.line_panels([panel])},
            arrays={"under_attack": {"strength": strengths, **accuracy}},
        )


evaluators.register("guest_attack", UnderAttack)

victim = Recipe(
    name="guest_victim",
    model="mlp",
    model_options={"hidden": (64,), "activation": "relu"},
    data="digits",
    data_options={"normalize": "symmetric"},
    learning_rate=0.1,
    batch_size=64,
    num_epochs=5,
    evaluate_every=5,
)
recipe = dataclasses.replace(
    victim,
    name="guest_against_attacks",
    imports=(__name__,),
    needs={"victim": Need(victim, same_data=True)},
    start_from="victim",
    task="guest_against_attacks",
    num_epochs=7,
    evaluate_every=2,
    log_every=5,
)


class TestGuest(KilledGuest):
    # The victim takes the first 100 steps.
    stop_after, crash_after, compared_after = 50, 180, 105
    figures = ("under_attack",)
    arrays = ("under_attack",)
    amplifies_rounding = True

    def test_the_victim_falls_and_what_learned_from_attacks_stands(self, run: Run):
        found = run.arrays("under_attack")
        assert found["victim"][0] > 0.9
        assert found["trained"][0] > 0.85
        assert (np.diff(found["victim"]) < 0).all()
        assert found["victim"][-1] < 0.3
        assert found["trained"][-1] > found["victim"][-1] + 0.2

    def test_the_needed_run_is_one_like_any_other(self, run: Run):
        needed = Run(run.directory / "victim")
        found = run.arrays("under_attack")
        assert needed.summary["test"]["accuracy"] == pytest.approx(found["victim"][0], abs=1e-6)
        trained = needed.trained()
        batch = next(needed.dataset.evaluation_batches("test", 500))
        batch = {**batch, "image": needed.dataset.transform(batch, None, False)["image"]}
        params = jax.tree.map(np.asarray, trained.variables["params"])
        images = batch["image"].reshape(len(batch["image"]), -1)
        moved = images + 0.2 * np.sign(gradient(params, images, batch["label"]))
        scores = forward(params, np.clip(moved, -1, 1))[1]
        right = (scores.argmax(1) == batch["label"])[batch["mask"] > 0]
        assert right.mean() == pytest.approx(found["victim"][2], abs=0.01)


def forward(params: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hidden units and the scores of the victim, by hand."""
    first, second = params["hidden0"], params["logits"]
    hidden = np.maximum(images @ first["kernel"] + first["bias"], 0)
    return hidden, hidden @ second["kernel"] + second["bias"]


def gradient(params: Any, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the cross-entropy in the pixels, by hand."""
    hidden, scores = forward(params, images)
    errors = np.exp(scores - scores.max(1, keepdims=True))
    errors /= errors.sum(1, keepdims=True)
    errors[np.arange(len(labels)), labels] -= 1
    return (errors @ params["logits"]["kernel"].T * (hidden > 0)) @ params["hidden0"]["kernel"].T
