"""Word vectors by skip-gram with negative sampling (Mikolov et al., 2013, section 2.2).

A word's vector is to tell its neighbors from words drawn by the corpus's frequencies to the power
3/4: a fact of the dataset, which an option of the task takes in. What the scores have to become is
known in closed form (Levy and Goldberg, 2014, eq. 7).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcore import data, evaluators, models, parallel, plots, tasks
from dlcore.data.features import Tokens
from dlcore.evaluators import Evaluator, Findings, Trained
from dlcore.metrics import Mean, Metrics
from dlcore.tasks import Aux, Batch, Descent, Variables
from dlcore.train import Recipe, Run, Session
from tests.guests.harness import Guest

KINDS = {
    "article": ("the", "a"),
    "color": ("red", "gray", "black", "white"),
    "animal": ("cat", "dog", "fox", "owl", "hen"),
    "verb": ("likes", "finds", "eats", "wants"),
    "food": ("bread", "corn", "fish", "cheese", "rice"),
}
WORDS = tuple(word for words in KINDS.values() for word in words)
# Neighbors on each side of a window's middle.
REACH = 2


def sentences(name: str, options: data.ExampleOptions) -> data.Dataset:
    """Windows of 5 words over random sentences: one word of each kind, in their order."""
    rng = np.random.default_rng(0)
    corpus = [
        rng.choice([WORDS.index(word) for word in words], 900, p=_falling(len(words)))
        for words in KINDS.values()
    ]
    windows = np.lib.stride_tricks.sliding_window_view(np.stack(corpus, 1).ravel(), 2 * REACH + 1)
    features = {"tokens": Tokens(WORDS, 2 * REACH + 1)}
    return data.from_arrays(features, {"train": {"tokens": windows}}, options, name)


def _falling(count: int) -> np.ndarray:
    """Shares of words, the last of which is five times rarer than the first."""
    shares = np.linspace(5, 1, count)
    return shares / shares.sum()


data.register("guest_sentences", sentences)


class WordVectors(nn.Module):
    """Two vectors for each word: one for itself, one for what it is to others.

    Attributes:
      vocabulary_size: number of words.
      size: of a vector.
    """

    vocabulary_size: int = 2
    size: int = 6

    @nn.compact
    def __call__(self, words: jax.Array, others: jax.Array, train: bool = False) -> jax.Array:
        """How well each word `[batch]` goes with others `[batch, count]`: logits of that shape."""
        del train
        normal = nn.initializers.normal(0.02)
        embed = [
            nn.Embed(self.vocabulary_size, self.size, embedding_init=normal, name=name)
            for name in ("words", "contexts")
        ]
        return jnp.einsum("bs,bcs->bc", embed[0](words), embed[1](others))


models.register("guest_word_vectors", WordVectors)


@dataclasses.dataclass(frozen=True)
class NegativeSampling(Descent):
    """The middle of a window against its neighbors and against drawn words.

    Attributes:
      negatives: words that are drawn for each neighbor.
      power: of the frequencies, by which they are drawn.
      frequencies: how often each word occurs.
    """

    negatives: int = 5
    power: float = 0.75
    frequencies: tuple[int, ...] = ()

    needs: ClassVar[Mapping[str, Any]] = {"tokens": (Tokens,)}
    evaluators: ClassVar[tuple[str, ...]] = ("guest_word_map",)

    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        tokens = batch["tokens"]
        return tokens[:, REACH], jnp.delete(tokens, REACH, axis=1, assume_unique_indices=True)

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        return self.init_model(key, *self.describe_inputs(batch))

    def loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        metrics = self.evaluate({"params": params, **model_state}, batch, key)
        loss = metrics["loss"]
        return loss.total, Aux(loss.count, model_state, metrics)

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        words, neighbors = self.describe_inputs(batch)
        drawn = self.draw(key, words.shape[0], neighbors.shape[1] * self.negatives)
        real, false = (self.model.apply(variables, words, other) for other in (neighbors, drawn))
        losses = jax.nn.softplus(-real).sum(1) + jax.nn.softplus(false).sum(1)
        return {"loss": Mean.of(losses / neighbors.shape[1], batch["mask"])}

    def noise(self) -> np.ndarray:
        """The probability of each word to be drawn."""
        weights = np.float64(self.frequencies) ** self.power
        return weights / weights.sum()

    def draw(self, key: jax.Array, count: int, number: int) -> jax.Array:
        """Words `[count, number]` for the examples in hand."""
        with np.errstate(divide="ignore"):
            logits = jnp.asarray(np.log(self.noise()), jnp.float32)
        keys = parallel.example_keys(key, count)
        return jax.vmap(lambda key: jax.random.categorical(key, logits, shape=(number,)))(keys)


tasks.register("guest_negative_sampling", NegativeSampling)


@dataclasses.dataclass(frozen=True)
class WordMap(Evaluator):
    """The words in the plane of their vectors' two main directions, and who is next to whom."""

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        del split, key
        vectors = np.asarray(trained.variables["params"]["words"]["embedding"])
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        likeness = vectors @ vectors.T - 2 * np.eye(len(vectors))
        kinds = np.array([kind for kind, words in KINDS.items() for _ in words])
        centered = vectors - vectors.mean(0)
        x, y = np.linalg.svd(centered)[2][:2] @ centered.T
        lines = [plots.Line(x[kinds == kind], y[kinds == kind], kind, "points") for kind in KINDS]
        figure = plots.line_panels([plots.Panel("directions of the words", lines)])
        return Findings(
            scalars={"neighbors_of_one_kind": float((kinds[likeness.argmax(1)] == kinds).mean())},
            figures={"word_map": figure},
        )


evaluators.register("guest_word_map", WordMap)

recipe = Recipe(
    name="guest_word_vectors",
    imports=(__name__,),
    task="guest_negative_sampling",
    model="guest_word_vectors",
    data="guest_sentences",
    learning_rate=1.0,
    schedule="cosine",
    batch_size=64,
    num_epochs=6,
    evaluate_every=2,
)


class TestGuest(Guest):
    stop_after, crash_after, compared_after = 100, 250, 20
    figures = ("word_map",)

    def test_the_nearest_word_is_of_the_same_kind(self, run: Run):
        assert run.summary["test"]["neighbors_of_one_kind"] > 0.9

    def test_scores_become_what_theory_says(self, session: Session, run: Run):
        trained = session.trained(run.directory)
        pairs = np.zeros((len(WORDS), len(WORDS)))
        for batch in trained.batches("train"):
            windows = batch["tokens"][batch["mask"] > 0]
            for place in set(range(2 * REACH + 1)) - {REACH}:
                np.add.at(pairs, (windows[:, REACH], windows[:, place]), 1)
        learner = trained.learner
        by_chance = pairs.sum(1, keepdims=True) * learner.noise() * learner.negatives
        params = trained.variables["params"]
        scores = params["words"]["embedding"] @ params["contexts"]["embedding"].T
        often, never = pairs >= 50, pairs == 0
        best = np.log(pairs[often] / by_chance[often])
        assert np.abs(scores[often] - best).mean() < 0.12
        assert scores[never].max() < best.min() - 1

    def test_words_are_drawn_by_frequencies_that_no_recipe_spells_out(
        self, session: Session, run: Run
    ):
        learner, dataset = session.prepared.learner, session.prepared.dataset
        tokens = next(dataset.evaluation_batches("train", dataset.num_examples("train")))["tokens"]
        assert learner.frequencies == tuple(np.bincount(tokens.ravel()).tolist())
        drawn = np.asarray(learner.draw(jax.random.key(1), 4000, 10)).ravel()
        expected = np.float64(learner.frequencies) ** 0.75
        expected *= len(drawn) / expected.sum()
        assert (np.abs(np.bincount(drawn) - expected) < 5 * np.sqrt(expected)).all()
        assert run.recipe.model_options["vocabulary_size"] == len(WORDS)
        assert run.recipe.task_options["frequencies"] == ()
