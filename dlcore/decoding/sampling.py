"""One token after the other: the likeliest one, or one that is drawn."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dlcore import parallel
from dlcore.decoding import filters, sequences
from dlcore.decoding.sequences import Decoded, Prefix, Step
from dlcore.ranges import NotNegative, Positive, Range

Nucleus = Annotated[float, Range(above=0, most=1)]
# From the log-probabilities `[rows, vocabulary]` and the position to a token for each row.
_Choose = Callable[[jax.Array, jax.Array], jax.Array]


def greedy(
    step: Step,
    carry: Any,
    start: Int[Array, " rows"],
    *,
    max_length: int,
    end: int | None = None,
    prefix: Prefix | None = None,
) -> Decoded:
    """Takes the likeliest token every time; of equal ones that of the lower index.

    Args:
      step: the model; see `dlcore.decoding`.
      carry: its state before the first token.
      start: what it reads first, and no part of what is written.
      max_length: where a row is cut off that has not ended.
      end: the token that ends a row; None where none does.
      prefix: the tokens that the rows begin with.

    Raises:
      UsageError: the arguments do not fit each other, or nothing may be written.
    """
    return _write(step, carry, start, lambda scores, _: scores.argmax(-1), max_length, end, prefix)


def sample(
    step: Step,
    carry: Any,
    start: Int[Array, " rows"],
    key: jax.Array,
    *,
    max_length: int,
    end: int | None = None,
    temperature: float | jax.Array = 1.0,
    top_k: int | None = None,
    nucleus: float | jax.Array | None = None,
    prefix: Prefix | None = None,
) -> Decoded:
    """Draws each token from the softmax of log-probabilities / temperature.

    What a row draws depends on the key, on its place in the batch and on itself, and on no other
    row. The scores are those of the model, before temperature and filters.

    Args:
      step: the model; see `dlcore.decoding`.
      carry: its state before the first token.
      start: what it reads first, and no part of what is written.
      key: of all draws.
      max_length: where a row is cut off that has not ended.
      end: the token that ends a row; None where none does.
      temperature: 0 takes the likeliest token every time.
      top_k: how many tokens may be drawn, the likeliest ones; None leaves all.
      nucleus: p, where only the smallest set of tokens may be drawn whose probability is at least
        p. It is that of what the temperature makes of the `top_k` tokens.
      prefix: the tokens that the rows begin with.

    Raises:
      UsageError: a number is out of its range, the arguments do not fit each other, or nothing may
        be written.
    """
    sequences.require(NotNegative, temperature=temperature)
    sequences.require(Positive, top_k=top_k)
    sequences.require(Nucleus, nucleus=nucleus)
    keys = parallel.example_keys(key, start.shape[0])

    def choose(scores: jax.Array, position: jax.Array) -> jax.Array:
        if top_k is not None:
            scores = jnp.where(filters.top_k(scores, top_k), scores, -jnp.inf)
        if nucleus is not None:
            in_nucleus = filters.nucleus(_tempered(scores, temperature), nucleus)
            scores = jnp.where(in_nucleus, scores, -jnp.inf)
        # The largest of scores / t + Gumbel noise falls on each token with the probability that
        # softmax(scores / t) gives it (Gumbel, 1954). Multiplied by t, this allows t = 0.
        return (scores + temperature * _noise(keys, position, scores.shape[-1])).argmax(-1)

    return _write(step, carry, start, choose, max_length, end, prefix)


def _tempered(scores: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """Scores / temperature, less their largest; at temperature 0 the others are infinitely less."""
    below = scores - scores.max(-1, keepdims=True)
    return below / jnp.maximum(temperature, jnp.finfo(scores.dtype).tiny)


def _noise(keys: jax.Array, position: jax.Array, vocabulary: int) -> jax.Array:
    """Gumbel noise `[rows, vocabulary]`, a key for each row and position."""
    own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, position)
    return jax.vmap(lambda key: jax.random.gumbel(key, (vocabulary,)))(own)


class _Written(NamedTuple):
    """How far the rows are: `last` is the token that each read last, or start."""

    position: jax.Array
    carry: Any
    last: jax.Array
    ended: jax.Array
    decoded: Decoded


def _write(
    step: Step,
    carry: Any,
    start: jax.Array,
    choose: _Choose,
    max_length: int,
    end: int | None,
    prefix: Prefix | None,
) -> Decoded:
    """Goes on until every row has ended, with what is chosen."""
    given = sequences.prepare(carry, start, max_length, prefix)

    def goes_on(state: _Written) -> jax.Array:
        return (state.position < max_length) & ~state.ended.all()

    def go_on(state: _Written) -> _Written:
        scores, carry = sequences.ask(step, state.carry, state.last, end)
        forced, is_given = given.at(state.position)
        token = jnp.where(is_given, forced, choose(scores, state.position).astype(jnp.int32))
        token = jnp.where(state.ended, sequences.padding(end), token)
        cost = jnp.take_along_axis(scores, token[:, None], axis=-1)[:, 0]
        before = state.decoded
        decoded = Decoded(
            tokens=before.tokens.at[:, state.position].set(token),
            lengths=jnp.where(state.ended, before.lengths, before.lengths + 1),
            scores=before.scores + jnp.where(state.ended | is_given, 0.0, cost),
        )
        ended = state.ended | sequences.ends(token, end)
        return _Written(state.position + 1, carry, token, ended, decoded)

    rows = start.shape[0]
    nothing = Decoded(
        tokens=jnp.full((rows, max_length), sequences.padding(end), jnp.int32),
        lengths=jnp.zeros(rows, jnp.int32),
        scores=jnp.zeros(rows, jnp.float32),
    )
    first = _Written(jnp.int32(0), carry, start.astype(jnp.int32), jnp.zeros(rows, bool), nothing)
    return jax.lax.while_loop(goes_on, go_on, first).decoded
