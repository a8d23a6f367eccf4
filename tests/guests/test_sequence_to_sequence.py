"""Sequence to sequence (Sutskever et al., 2014): Roman numerals are read, decimal ones written.

What is written is found by beam search and judged by BLEU (Papineni et al., 2002), a score of the
whole corpus that is no mean over sentences: an evaluator gives it at every evaluation, and the best
checkpoint is the one with the highest.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcore import data, evaluators, models, tasks
from dlcore.data.features import Tokens
from dlcore.evaluators import Evaluator, Findings, Trained
from dlcore.metrics import Mean, Metrics
from dlcore.tasks import Aux, Batch, Descent, Variables
from dlcore.train import Recipe, Run, Session
from tests.guests.harness import Guest

ROMAN, DECIMAL = "IVXLCDM", ".0123456789"
# A sentence's last symbol, and what the writer is told before the first.
END = DECIMAL.index(".")
SYMBOLS = ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I")
VALUES = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)


def roman(number: int) -> str:
    """The numeral of a number below 4000."""
    text = ""
    for symbol, value in zip(SYMBOLS, VALUES, strict=True):
        text, number = text + number // value * symbol, number % value
    return text


def numerals(name: str, options: data.ExampleOptions) -> data.Dataset:
    """The numbers from 1 to 3999 in both notations."""
    numbers = range(1, 4000)
    source = [roman(number) for number in numbers]
    target = [f"{number}." for number in numbers]
    features, arrays = {}, {}
    for key, texts, vocabulary in (("source", source, ROMAN), ("target", target, DECIMAL)):
        lengths = np.array([len(text) for text in texts])
        tokens = np.zeros((len(texts), lengths.max()), int)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = [vocabulary.index(symbol) for symbol in text]
        features[key] = Tokens(vocabulary, tokens.shape[1], padded=True)
        arrays |= {key: tokens, f"{key}_length": lengths}
    return data.from_arrays(features, {"train": arrays}, options, name)


data.register("guest_numerals", numerals)


class Translator(nn.Module):
    """A reader whose last state is the writer's first one.

    Attributes:
      features: numbers in a state.
    """

    features: int = 40

    def setup(self) -> None:
        # The orthogonal matrices of Flax take seconds to compile.
        init = nn.initializers.lecun_normal()
        self.reading, self.writing = (
            nn.GRUCell(self.features, recurrent_kernel_init=init) for _ in range(2)
        )
        self.reader, self.writer = nn.RNN(self.reading, return_carry=True), nn.RNN(self.writing)
        self.source = nn.Embed(len(ROMAN), self.features)
        self.target = nn.Embed(len(DECIMAL), self.features)
        self.logits = nn.Dense(len(DECIMAL))

    def __call__(
        self, source: jax.Array, length: jax.Array, before: jax.Array, train: bool = False
    ) -> jax.Array:
        """Logits of each target symbol `[batch, time, symbols]`, given those before it."""
        del train
        written = self.writer(self.target(before), initial_carry=self.read(source, length))
        return self.logits(written)

    def read(self, source: jax.Array, length: jax.Array) -> jax.Array:
        """The state `[batch, features]` after the last symbol of a source."""
        return self.reader(self.source(source), seq_lengths=length)[0]

    def write(self, carry: jax.Array, symbol: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The state after one more symbol `[batch]`, and the logits of the next."""
        carry, written = self.writing(carry, self.target(symbol))
        return carry, self.logits(written)


models.register("guest_translator", Translator)


@dataclasses.dataclass(frozen=True)
class Translation(Descent):
    """Cross-entropy of each target symbol, given those before it, in nats.

    Attributes:
      beam_width: sentences that are gone on with at a time.
    """

    beam_width: int = 4

    needs: ClassVar[Mapping[str, Any]] = {"source": (Tokens,), "target": (Tokens,)}
    watched_metric: ClassVar[str] = "bleu"
    watched_mode: ClassVar[str] = "max"
    evaluators: ClassVar[tuple[str, ...]] = ("guest_bleu",)

    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        before = jnp.pad(batch["target"][:, :-1], ((0, 0), (1, 0)), constant_values=END)
        return batch["source"], batch["source_length"], before

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        return self.init_model(key, *self.describe_inputs(batch))

    def loss(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        applied = self.apply(params, model_state, *self.describe_inputs(batch), key=key)
        loss = self._loss(applied.outputs, batch)
        return loss.total, Aux(loss.count, applied.model_state, {"loss": loss})

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        del key
        logits = self.model.apply(variables, *self.describe_inputs(batch))
        return {"loss": self._loss(logits, batch)}

    def _loss(self, logits: jax.Array, batch: Batch) -> Mean:
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["target"])
        real = jnp.arange(nats.shape[1]) < batch["target_length"][:, None]
        return Mean.of(nats, real * batch["mask"][:, None])

    def translate(self, variables: Variables, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The likeliest sentence found for each source, and its log probability.

        Its symbols `[batch, time]` are all `END` from the first one on.
        """
        width, symbols = self.beam_width, len(DECIMAL)
        (count, time), rows = batch["target"].shape, jnp.arange(batch["target"].shape[0])[:, None]
        state = self.model.apply(variables, batch["source"], batch["source_length"], method="read")

        def go_on(beam: Any, place: jax.Array) -> tuple[Any, None]:
            carry, written, scores = beam
            last = jnp.where(place > 0, written[:, :, place - 1], END)
            carry, logits = self.model.apply(
                variables, carry.reshape(count * width, -1), last.ravel(), method="write"
            )
            more = jax.nn.log_softmax(logits).reshape(count, width, symbols)
            # What has ended goes on with nothing else, at no cost.
            ended = ((last == END) & (place > 0))[..., None]
            more = jnp.where(ended, jnp.where(jnp.arange(symbols) == END, 0, -jnp.inf), more)
            totals = (scores[..., None] + more).reshape(count, -1)
            scores, best = jax.lax.top_k(totals, width)
            origin, symbol = jnp.divmod(best, symbols)
            written = written[rows, origin].at[:, :, place].set(symbol)
            return (carry.reshape(count, width, -1)[rows, origin], written, scores), None

        # At first all are the same sentence, of which one is enough.
        scores = jnp.where(jnp.arange(width) == 0, 0, -jnp.inf) + jnp.zeros((count, 1))
        written = jnp.full((count, width, time), END)
        beam = jnp.repeat(state[:, None], width, axis=1), written, scores
        (_, written, scores), _ = jax.lax.scan(go_on, beam, jnp.arange(time))
        return written[:, 0], scores[:, 0]


tasks.register("guest_translation", Translation)


@dataclasses.dataclass(frozen=True)
class Bleu(Evaluator):
    """The corpus score of what beam search finds, and some of it to read."""

    every: int = 1

    def evaluate(self, trained: Trained, split: str, key: jax.Array) -> Findings:
        written, _ = trained.rows(trained.learner.translate, split)
        batch = trained.rows(_batch, split)
        found = [_text(row) for row in written]
        wanted = [_text(row) for row in batch["target"]]
        sources = [
            "".join(ROMAN[symbol] for symbol in row[:length])
            for row, length in zip(batch["source"], batch["source_length"], strict=True)
        ]
        lines = [" ".join(words) for words in zip(sources, found, wanted, strict=True)]
        right = np.mean([one == other for one, other in zip(found, wanted, strict=True)])
        return Findings(
            scalars={"bleu": bleu(found, wanted), "exactly_right": float(right)},
            texts={"translations": "\n".join(lines)},
        )


def _batch(variables: Variables, batch: Batch) -> Batch:
    del variables
    return {name: batch[name] for name in ("source", "source_length", "target")}


def _text(row: np.ndarray) -> str:
    return "".join(DECIMAL[symbol] for symbol in row).split(DECIMAL[END])[0]


def bleu(found: Sequence[Any], wanted: Sequence[Any], order: int = 4) -> float:
    """The geometric mean of the precisions of n-grams up to an order, less a brevity penalty."""
    precisions = []
    for n in range(1, order + 1):
        right = total = 0
        for one, other in zip(found, wanted, strict=True):
            own, due = (
                collections.Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1))
                for s in (one, other)
            )
            right, total = right + (own & due).total(), total + own.total()
        precisions.append(right / max(total, 1))
    lengths = [sum(map(len, texts)) for texts in (found, wanted)]
    penalty = min(0.0, 1 - lengths[1] / max(lengths[0], 1))
    with np.errstate(divide="ignore"):
        return float(np.exp(penalty + np.mean(np.log(precisions))))


evaluators.register("guest_bleu", Bleu)

recipe = Recipe(
    name="guest_translation",
    imports=(__name__,),
    task="guest_translation",
    model="guest_translator",
    data="guest_numerals",
    learning_rate=1.0,
    clip_norm=1.0,
    schedule="cosine",
    batch_size=64,
    num_epochs=6,
    evaluate_every=2,
)


class TestGuest(Guest):
    stop_after, crash_after, compared_after = 60, 120, 20

    def test_it_translates_numbers_that_it_has_never_seen(self, run: Run):
        assert run.summary["best"]["metric"] == "bleu"
        assert run.summary["test"]["bleu"] > 0.9
        assert run.summary["test"]["exactly_right"] > 0.8
        lines = (run.directory / "translations.txt").read_text().splitlines()
        assert len(lines) == run.dataset.num_examples("test")
        for source, _, wanted in map(str.split, lines):
            assert source == roman(int(wanted))

    @pytest.mark.slow
    def test_a_beam_of_all_sentences_finds_the_likeliest(self, session: Session, run: Run):
        trained, time = session.trained(run.directory), 3
        batch = {name: array[:1] for name, array in next(trained.batches("test")).items()}
        symbols = len(DECIMAL)
        learner = dataclasses.replace(trained.learner, beam_width=symbols ** (time - 1))
        found, score = learner.translate(
            trained.variables, {**batch, "target": batch["target"][:, :time]}
        )
        all_of_them = np.stack(np.unravel_index(np.arange(symbols**time), (symbols,) * time), 1)
        # Only the padding of the source differs, which no one reads.
        padded = np.pad(batch["source"], ((0, 0), (0, 3)), constant_values=1)
        many = {"source": padded, "source_length": batch["source_length"]}
        many = {name: np.repeat(array, symbols**time, 0) for name, array in many.items()}
        inputs = learner.describe_inputs({**many, "target": all_of_them})
        nats = jax.nn.log_softmax(learner.model.apply(trained.variables, *inputs))
        nats = np.take_along_axis(np.asarray(nats), all_of_them[..., None], 2)[..., 0]
        ended = np.pad(all_of_them[:, :-1] == END, ((0, 0), (1, 0))).cumsum(1) > 0
        total = np.where(ended, 0, nats).sum(1)
        total[(ended & (all_of_them != END)).any(1)] = -np.inf
        np.testing.assert_array_equal(found[0], all_of_them[total.argmax()])
        assert score[0] == pytest.approx(total.max(), abs=1e-4)


def test_bleu_is_what_its_authors_count_by_hand():
    # Section 2.1, example 2: "the" counts no oftener than it is wanted.
    parrot, cat = ["the"] * 7, ["the", "cat", "is", "on", "the", "mat"]
    assert bleu([parrot], [cat], order=1) == pytest.approx(2 / 7)
    # Section 2.2.2: of a corpus, not of each sentence, are the counts and the lengths.
    found = [parrot, ["the", "cat"]]
    assert bleu(found, [cat, cat], order=1) == pytest.approx(4 / 9 * np.exp(1 - 12 / 9))
    assert bleu(found, [cat, cat], order=2) == pytest.approx(
        np.sqrt(4 / 9 * 1 / 7) * np.exp(1 - 12 / 9)
    )
