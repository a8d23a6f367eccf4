"""Beam search with the length normalization of Wu et al. (2016), section 7."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlcore.decoding import sequences
from dlcore.decoding.sequences import Decoded, Prefix, Step
from dlcore.ranges import NotNegative, Positive


def penalty(lengths: Int[Array, "*shape"], alpha: float | jax.Array) -> Float[Array, "*shape"]:
    """What a hypothesis' log-probability is divided by: ((5 + length) / 6)^alpha (eq. 14)."""
    return ((5 + lengths.astype(jnp.float32)) / 6) ** alpha


class _Beam(NamedTuple):
    """The hypotheses of all rows, arrays `[rows, width, ...]`; of the carry `[rows * width, ...]`.

    Of one that holds a place only, because there is no other, the score is -inf.
    """

    position: jax.Array
    carry: Any
    last: jax.Array
    ended: jax.Array
    decoded: Decoded


def beam_search(
    step: Step,
    carry: Any,
    start: Int[Array, " rows"],
    *,
    beam_width: int,
    max_length: int,
    end: int | None = None,
    length_penalty: float | jax.Array = 0.0,
    prefix: Prefix | None = None,
) -> Decoded:
    """Keeps the best hypotheses of each row, and goes on with all of them at once.

    The best have the highest log-probability, divided by the `penalty` of their length; the prefix
    counts in neither, the end token in both. One that has ended keeps its score, and its place as
    long as there are no better ones. No two of a row are equal. Of equally good ones the
    descendants of the better hypothesis come first, and of one hypothesis those by the likelier
    token, or by the lower index.

    Args:
      step: the model; see `dlcore.decoding`. It is asked for rows * `beam_width` rows.
      carry: its state before the first token, of `rows` rows.
      start: what it reads first, and no part of what is written.
      beam_width: how many hypotheses are kept. With 1 the result is that of `greedy`.
      max_length: where a hypothesis is cut off that has not ended.
      end: the token that ends a row; None where none does.
      length_penalty: the exponent alpha; 0 compares the log-probabilities themselves.
      prefix: the tokens that the rows begin with.

    Returns:
      `beam_width` hypotheses a row, best first: tokens `[rows, beam_width, max_length]`, lengths
      and undivided scores `[rows, beam_width]`. Where there are not as many of a probability above
      0, the last have score -inf, length 0 and no tokens.

    Raises:
      UsageError: a number is out of its range, the arguments do not fit each other, or nothing may
        be written.
    """
    sequences.require(Positive, beam_width=beam_width)
    sequences.require(NotNegative, length_penalty=length_penalty)
    given = sequences.prepare(carry, start, max_length, prefix)

    def goes_on(beam: _Beam) -> jax.Array:
        alive = ~beam.ended & (beam.decoded.scores != -jnp.inf)
        return (beam.position < max_length) & alive.any()

    def go_on(beam: _Beam) -> _Beam:
        scores, carry = sequences.ask(step, beam.carry, beam.last.ravel(), end)
        scores = _forced(scores.reshape(*beam.last.shape, -1), beam, given, end)
        return _best(beam, carry, scores, given, length_penalty, end)

    beam = jax.lax.while_loop(goes_on, go_on, _first(carry, start, beam_width, max_length, end))
    return _without_empty(beam.decoded, end)


def _first(carry: Any, start: jax.Array, width: int, max_length: int, end: int | None) -> _Beam:
    """The empty hypothesis: as all of a beam would be equal, only the first one is there."""
    shape = (start.shape[0], width)
    empty = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf)
    return _Beam(
        position=jnp.int32(0),
        carry=jax.tree.map(lambda array: jnp.repeat(array, width, axis=0), carry),
        last=jnp.repeat(start.astype(jnp.int32)[:, None], width, axis=1),
        ended=jnp.zeros(shape, bool),
        decoded=Decoded(
            tokens=jnp.full((*shape, max_length), sequences.padding(end), jnp.int32),
            lengths=jnp.zeros(shape, jnp.int32),
            scores=jnp.broadcast_to(empty.astype(jnp.float32), shape),
        ),
    )


def _forced(scores: jax.Array, beam: _Beam, given: Prefix, end: int | None) -> jax.Array:
    """Log-probabilities with which the given token, or that behind the end, costs nothing."""
    token, is_given = given.at(beam.position)
    only = jnp.where(beam.ended, sequences.padding(end), token[:, None])
    is_forced = beam.ended | is_given[:, None]
    certain = jnp.where(jnp.arange(scores.shape[-1]) == only[..., None], 0.0, -jnp.inf)
    return jnp.where(is_forced[..., None], certain, scores)


def _best(
    beam: _Beam,
    carry: Any,
    scores: jax.Array,
    given: Prefix,
    alpha: float | jax.Array,
    end: int | None,
) -> _Beam:
    """The best hypotheses that are one token longer, or have ended."""
    rows, width = beam.last.shape
    before = beam.decoded
    # No hypothesis can have more descendants among the best. That they are compared with each other
    # first, before rounding makes their sums equal, lets a beam of one decide as `greedy` does.
    more, tokens = jax.lax.top_k(scores, min(width, scores.shape[-1]))
    nowhere = (before.scores == -jnp.inf)[..., None]
    # Not even NaN makes something of what is not there.
    totals = jnp.where(nowhere, -jnp.inf, before.scores[..., None] + more)
    lengths = jnp.where(beam.ended, before.lengths, before.lengths + 1)
    written = jnp.maximum(lengths - given.lengths[:, None], 0)
    normalized = totals / penalty(written, alpha)[..., None]
    _, best = jax.lax.top_k(normalized.reshape(rows, -1), width)
    origin = best // more.shape[-1]

    def of_best(array: jax.Array) -> jax.Array:
        return jnp.take_along_axis(array.reshape(rows, -1), best, axis=1)

    def of_origin(array: jax.Array) -> jax.Array:
        return array[jnp.arange(rows)[:, None], origin]

    token = of_best(tokens)
    decoded = Decoded(
        tokens=of_origin(before.tokens).at[:, :, beam.position].set(token),
        lengths=of_origin(lengths),
        scores=of_best(totals),
    )
    flat = (jnp.arange(rows)[:, None] * width + origin).ravel()
    return _Beam(
        position=beam.position + 1,
        carry=jax.tree.map(lambda array: array[flat], carry),
        last=token,
        ended=of_origin(beam.ended) | sequences.ends(token, end),
        decoded=decoded,
    )


def _without_empty(decoded: Decoded, end: int | None) -> Decoded:
    """The hypotheses, those that hold a place only without tokens."""
    there = decoded.scores != -jnp.inf
    tokens = jnp.where(there[..., None], decoded.tokens, sequences.padding(end))
    return Decoded(tokens, jnp.where(there, decoded.lengths, 0), decoded.scores)
