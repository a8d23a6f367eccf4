"""Predicting the next token of a running text, by truncated back-propagation through time.

A training batch is a window over as many running texts as it has rows. The recurrent state is
carried from one window to the next and the gradient is not (Williams and Peng, 1990), so that the
state reaches further back than the gradient does.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlcore import decoding, losses
from dlcore.data import Needs
from dlcore.data.features import Tokens
from dlcore.errors import UsageError
from dlcore.metrics import ExponentialOfMean, Mean, Metrics, NanPredictions
from dlcore.parallel import Kind
from dlcore.tasks.descent import Aux, Descent
from dlcore.tasks.learner import Batch, Variables
from dlcore.tasks.registry import register


@runtime_checkable
class Recurrent(Protocol):
    """A model that carries a state along a sequence."""

    def initial_carry(self, batch: int) -> Any:
        """The state of `batch` rows before their first token, arrays `[batch, ...]`."""


@dataclasses.dataclass(frozen=True)
class LanguageModel(Descent):
    """A language model with a state: `__call__(tokens, carry, train) -> (logits, carry)`.

    The model also gives `initial_carry(batch)`. A batch has "tokens" and "targets", int32
    `[batch, time]`; "mask", float32 of that shape, 1 where the target counts; and in training
    "start", bool `[batch]`, set where a row begins a new text: its state is then the initial one.
    """

    needs: ClassVar[Needs] = {"tokens": (Tokens,), "targets": (Tokens,)}
    state_kinds: ClassVar[Mapping[str, Kind]] = {"carry": "examples"}
    evaluators: ClassVar[tuple[str, ...]] = ("continuation",)
    model_protocol: ClassVar[type] = Recurrent

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        """Fresh variables; "carry" holds the initial state of every row."""
        tokens, carry = self.describe_inputs(batch)
        return {**self.init_model(key, tokens, carry), "carry": carry}

    def describe_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """A batch's tokens, and the initial state of its rows."""
        tokens = batch["tokens"]
        return tokens, self.model.initial_carry(tokens.shape[0])

    def loss(
        self, params: Any, model_state: Mapping[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """Cross-entropy in nats over unmasked tokens, going on from `model_state["carry"]`."""
        tokens, initial = self.describe_inputs(batch)
        of_model = dict(model_state)
        carry = jax.tree.map(
            lambda first, carried: jnp.where(batch["start"][:, None], first, carried),
            initial,
            of_model.pop("carry"),
        )
        applied = self.apply(params, of_model, tokens, carry, key=key)
        logits, carry = applied.outputs
        loss = _loss(logits, batch)
        after = {**applied.model_state, "carry": carry}
        return loss.total, Aux(loss.count, after, _metrics(loss), applied.sown)

    def evaluate(self, variables: Variables, batch: Batch, key: jax.Array) -> Metrics:
        """Cross-entropy in nats and perplexity; every row is read from the initial state."""
        del key
        logits, _ = self.model.apply(_of_model(variables), *self.describe_inputs(batch))
        nan = NanPredictions.of(logits, batch["mask"])
        return {**_metrics(_loss(logits, batch)), "nan_predictions": nan}

    def continuation(
        self,
        variables: Variables,
        key: jax.Array,
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
        return self._sample(_of_model(variables), key, prompt, length, temperature)

    @functools.partial(jax.jit, static_argnames=("self", "length"))
    def _sample(
        self,
        variables: Variables,
        key: jax.Array,
        prompt: jax.Array,
        length: int,
        temperature: jax.Array,
    ) -> jax.Array:
        def step(carry: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
            logits, carry = self.model.apply(variables, tokens[:, None], carry)
            return jax.nn.log_softmax(logits[:, 0]), carry

        carry = self.model.initial_carry(prompt.shape[0])
        if prompt.shape[1] > 1:
            _, carry = self.model.apply(variables, prompt[:, :-1], carry)
        drawn = decoding.sample(
            step, carry, prompt[:, -1], key, max_length=length, temperature=temperature
        )
        return drawn.tokens


def _of_model(variables: Variables) -> dict[str, Any]:
    """The variables without the state that training carries from window to window."""
    return {name: own for name, own in variables.items() if name != "carry"}


def _loss(logits: Float[Array, "batch time vocabulary"], batch: Batch) -> Mean:
    """Cross-entropy in nats a token."""
    return Mean.of(losses.cross_entropy(logits, batch["targets"]), batch["mask"])


def _metrics(loss: Mean) -> Metrics:
    return {"loss": loss, "perplexity": ExponentialOfMean(loss.total, loss.count)}


register("language_model", LanguageModel)
