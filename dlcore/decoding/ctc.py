"""Labelings from the frames of connectionist temporal classification (Graves et al. 2006).

A path has a label or a blank at every frame. Its labeling is what is left when repeated labels are
merged and blanks are dropped, in this order; the probability of a labeling is that of all of its
paths (section 3.1).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlcore.decoding import sequences
from dlcore.decoding.sequences import Decoded
from dlcore.ranges import Positive


def greedy(
    log_probabilities: Float[Array, "rows time vocabulary"],
    lengths: Int[Array, " rows"],
    blank: int = 0,
) -> Decoded:
    """The labeling of the likeliest path ("best path decoding", section 3.2).

    Args:
      log_probabilities: of every label and of the blank, at every frame.
      lengths: how many of a row's frames are to be read.
      blank: the index of the blank.

    Returns:
      Labels `[rows, time]`, filled up with blanks, their number, and the log-probability of the
      path. Of equally likely labels the one of the lower index is taken.

    Raises:
      UsageError: the blank is none of the vocabulary.
    """
    sequences.require_token(log_probabilities.shape[-1], blank=blank)
    rows, time, _ = log_probabilities.shape
    frames = log_probabilities.astype(jnp.float32)
    is_read = jnp.arange(time, dtype=lengths.dtype) < lengths[:, None]
    path = jnp.where(is_read, frames.argmax(-1).astype(jnp.int32), blank)
    previous = jnp.pad(path[:, :-1], ((0, 0), (1, 0)), constant_values=blank)
    is_label = (path != blank) & (path != previous)
    # What is no label is written outside, where nothing is.
    place = jnp.where(is_label, jnp.cumsum(is_label, axis=1) - 1, time)
    tokens = jnp.full_like(path, blank)
    tokens = tokens.at[jnp.arange(rows)[:, None], place].set(path, mode="drop")
    scores = jnp.where(is_read, frames.max(-1), 0.0).sum(-1)
    return Decoded(tokens, is_label.sum(-1, dtype=jnp.int32), scores)


def prefix_beam_search(
    log_probabilities: Float[Array, "rows time vocabulary"],
    lengths: Int[Array, " rows"],
    beam_width: int,
    blank: int = 0,
) -> Decoded:
    """The likeliest labelings, over all of their paths, as far as a beam finds them.

    After each frame the `beam_width` likeliest beginnings of labelings are kept, with what their
    paths that end with the blank and those that do not have come to (Hannun et al. 2014, algorithm
    1, without a language model). A beam as wide as there are labelings gives exact probabilities.

    Args:
      log_probabilities: of every label and of the blank, at every frame.
      lengths: how many of a row's frames are to be read.
      beam_width: how many labelings are kept.
      blank: the index of the blank.

    Returns:
      `beam_width` labelings a row, likeliest first, no two equal: labels
      `[rows, beam_width, time]`, filled up with blanks, their number and their log-probabilities
      `[rows, beam_width]`. Where there are not as many of a probability above 0, the last have
      score -inf, length 0 and no labels. Of equally likely ones those come first that the last
      frame left as they were.

    Raises:
      UsageError: a beam without width, or the blank is none of the vocabulary.
    """
    sequences.require(Positive, beam_width=beam_width)
    sequences.require_token(log_probabilities.shape[-1], blank=blank)
    search = functools.partial(_search, width=beam_width, blank=blank)
    return jax.vmap(search)(log_probabilities.astype(jnp.float32), lengths)


class _Beam(NamedTuple):
    """Beginnings of labelings; of one that holds a place only, both probabilities are 0.

    Attributes:
      tokens: `[width, time]`, filled up with blanks.
      lengths: `[width]`.
      in_blank: `[width]`, the log-probability of the paths whose last frame is blank.
      in_label: `[width]`, that of the paths whose last frame is the last label.
    """

    tokens: jax.Array
    lengths: jax.Array
    in_blank: jax.Array
    in_label: jax.Array

    @property
    def scores(self) -> jax.Array:
        return jnp.logaddexp(self.in_blank, self.in_label)


def _search(frames: jax.Array, length: jax.Array, width: int, blank: int) -> Decoded:
    """The search of one row, `frames` being `[time, vocabulary]`."""
    time, nothing = frames.shape[0], jnp.full(width, -jnp.inf)
    empty = _Beam(
        tokens=jnp.full((width, time), blank, jnp.int32),
        lengths=jnp.zeros(width, jnp.int32),
        in_blank=nothing.at[0].set(0.0),
        in_label=nothing,
    )

    def read(beam: _Beam, at: tuple[jax.Array, jax.Array]) -> tuple[_Beam, None]:
        frame, number = at
        after = _read(beam, frame, blank)
        return jax.tree.map(functools.partial(jnp.where, number < length), after, beam), None

    beam, _ = jax.lax.scan(read, empty, (frames, jnp.arange(time)))
    there = beam.scores != -jnp.inf
    return Decoded(
        tokens=jnp.where(there[:, None], beam.tokens, blank),
        lengths=jnp.where(there, beam.lengths, 0),
        scores=beam.scores,
    )


def _read(beam: _Beam, frame: jax.Array, blank: int) -> _Beam:
    """The beam after one more frame: what stays as it is, and what grows by a label."""
    width, vocabulary = beam.lengths.shape[0], frame.shape[0]
    places, labels = jnp.arange(beam.tokens.shape[1]), jnp.arange(vocabulary)
    is_last = places == beam.lengths[:, None] - 1
    last = jnp.where(beam.lengths > 0, jnp.where(is_last, beam.tokens, 0).sum(-1), blank)

    # The last label again is another one only behind a blank.
    before = jnp.where(labels == last[:, None], beam.in_blank[:, None], beam.scores[:, None])
    grown = jnp.where(labels == blank, -jnp.inf, before + frame)
    stays = _Beam(
        beam.tokens, beam.lengths, beam.scores + frame[blank], beam.in_label + frame[last]
    )

    # What grows into one that is there already, as [parent, child], is one with it. (The empty one
    # is its own child here, by a blank, which nothing grows by.)
    shortened = jnp.where(is_last, blank, beam.tokens)
    is_child = (shortened == beam.tokens[:, None]).all(-1)
    arrived = jnp.where(is_child, grown[:, last], -jnp.inf).max(0)
    grown = grown.at[:, last].min(jnp.where(is_child, -jnp.inf, jnp.inf))
    stays = stays._replace(in_label=jnp.logaddexp(stays.in_label, arrived))

    # Of equals those that stay come first: so nothing impossible is ever grown to fill a place.
    _, best = jax.lax.top_k(jnp.concatenate([stays.scores, grown.ravel()]), width)
    grows, which = best >= width, jnp.maximum(best - width, 0)
    origin = jnp.where(grows, which // vocabulary, best)
    kept = jax.tree.map(lambda array: array[origin], stays)
    is_new = grows[:, None] & (places == kept.lengths[:, None])
    return _Beam(
        tokens=jnp.where(is_new, (which % vocabulary)[:, None], kept.tokens),
        lengths=jnp.where(grows, kept.lengths + 1, kept.lengths),
        in_blank=jnp.where(grows, -jnp.inf, kept.in_blank),
        in_label=jnp.where(grows, grown.ravel()[which], kept.in_label),
    )
