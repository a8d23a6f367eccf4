"""Predicting the next token of a running text, by truncated back-propagation through time.

A training batch is a window over as many running texts as it has rows. The recurrent state is
carried from one window to the next and the gradient is not (Williams and Peng, 1990), so that the
state reaches further back than the gradient does.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dlcore.errors import UsageError
from dlcore.metrics import ExponentialOfMean, Mean, Metrics
from dlcore.tasks import base
from dlcore.tasks.base import Aux, Batch


@dataclasses.dataclass(frozen=True)
class LanguageModel(base.Task):
    """A language model with a state: `__call__(tokens, carry, train) -> (logits, carry)`.

    The model also gives `initial_carry(batch)`. A batch has "tokens" and "targets", int32
    `[batch, time]`; "mask", float32 of that shape, 1 where the target counts; and in training
    "start", bool `[batch]`, set where a row begins a new text: its state is then the initial one.
    """

    data_kind: ClassVar[str] = "text"
    model_methods: ClassVar[tuple[str, ...]] = ("initial_carry",)

    def init(self, rng: jax.Array, batch: Batch) -> dict[str, Any]:
        """Fresh variables; "carry" holds the initial state of every row."""
        tokens, carry = self.describe_inputs(batch)
        return {**self.model.init(rng, tokens, carry), "carry": carry}

    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """A batch's tokens, and the initial state of its rows."""
        tokens = batch["tokens"]
        return tokens, self.model.initial_carry(tokens.shape[0])

    def loss(
        self, params: Any, model_state: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """Cross-entropy in nats over unmasked tokens, going on from `model_state["carry"]`."""
        tokens, initial = self.describe_inputs(batch)
        carry = jax.tree.map(
            lambda first, carried: jnp.where(batch["start"][:, None], first, carried),
            initial,
            model_state["carry"],
        )
        logits, carry = self.model.apply(
            {"params": params}, tokens, carry, train=True, rngs={"dropout": rng}
        )
        loss = _loss(logits, batch)
        return loss.total, Aux(loss.count, {"carry": carry}, _metrics(loss))

    def evaluate(self, variables: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy in nats and perplexity; every row is read from the initial state."""
        logits, _ = self.model.apply({"params": variables["params"]}, *self.describe_inputs(batch))
        return _metrics(_loss(logits, batch))

    def sample(
        self,
        variables: Mapping[str, Any],
        rng: jax.Array,
        prompt: Int[Array, "batch prompt"],
        length: int,
        temperature: float = 1.0,
    ) -> Int[Array, "batch length"]:
        """Continues each prompt by `length` tokens, each drawn from softmax(logits / temperature).

        Temperature 0 takes the likeliest token every time.

        Raises:
          UsageError: an empty prompt, no length, or a negative temperature.
        """
        if prompt.shape[1] == 0:
            raise UsageError("the prompt is empty: give at least one character")
        if length < 1:
            raise UsageError(f"cannot sample {length} characters: it is 1 or more")
        if temperature < 0:
            raise UsageError(f"a temperature is 0 or more, not {temperature}")
        return self._sample(variables["params"], rng, prompt, length, temperature)

    @functools.partial(jax.jit, static_argnames=("self", "length"))
    def _sample(
        self, params: Any, rng: jax.Array, prompt: jax.Array, length: int, temperature: jax.Array
    ) -> jax.Array:
        def read(tokens: jax.Array, carry: Any) -> tuple[Any, jax.Array]:
            logits, carry = self.model.apply({"params": params}, tokens, carry)
            return carry, logits[:, -1]

        def step(state: tuple[Any, jax.Array], key: jax.Array) -> tuple[Any, jax.Array]:
            carry, logits = state
            # The largest of logits / t + Gumbel noise falls on each token with the probability that
            # softmax(logits / t) gives it (Gumbel, 1954). Multiplied by t, this allows t = 0.
            noise = temperature * jax.random.gumbel(key, logits.shape)
            token = jnp.argmax(logits + noise, axis=-1)
            return read(token[:, None], carry), token

        first = read(prompt, self.model.initial_carry(prompt.shape[0]))
        _, tokens = jax.lax.scan(step, first, jax.random.split(rng, length))
        return tokens.T


def _loss(logits: Float[Array, "batch time vocabulary"], batch: Batch) -> Mean:
    """Cross-entropy in nats a token."""
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    return Mean.of(nats, batch["mask"])


def _metrics(loss: Mean) -> Metrics:
    return {"loss": loss, "perplexity": ExponentialOfMean(loss.total, loss.count)}


base.register("language_model", LanguageModel)
