"""Beam search on trees, against greedy decoding, exhaustive search and a search by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dlcore import decoding
from dlcore.decoding import Prefix, beam
from dlcore.errors import UsageError
from tests import trees
from tests.trees import END, LENGTH, NODES, VOCABULARY

# Whole numbers, of which many are equal, and others, whose differences get lost in sums.
SCORES = st.integers(-3, 0).map(float) | st.floats(-1000, -(2**-10), width=32)
TREES = npst.arrays(np.float32, (2, NODES, VOCABULARY), elements=SCORES)
# Behind the first token the second one is likelier, by less than is left of it in a sum.
LOST = np.full((2, NODES, VOCABULARY), -1000, np.float32)
LOST[:, 1:, :2] = -1, -1 + 2**-20
GIVEN = st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH))
PREFIX = np.array([[0, 1, 0, 0], [1, 2, 2, 0]])


def _search(table, beam_width, alpha=0.0, end=END, prefix=None):
    rows = table.shape[0]
    inputs = trees.step_of(table), trees.carry(rows), jnp.zeros(rows, jnp.int32)
    options = {"beam_width": beam_width, "length_penalty": alpha, "end": end, "prefix": prefix}
    return decoding.beam_search(*inputs, max_length=LENGTH, **options)


search = jax.jit(_search, static_argnames=("beam_width", "end"))


@jax.jit
def greedy(table, prefix):
    rows = table.shape[0]
    inputs = trees.step_of(table), trees.carry(rows), jnp.zeros(rows, jnp.int32)
    return decoding.greedy(*inputs, max_length=LENGTH, end=END, prefix=prefix)


def _prefix(lengths):
    return Prefix(jnp.asarray(PREFIX), jnp.array(lengths))


def _normalized(score, length, alpha):
    return score / ((5 + length) / 6) ** alpha


@settings(max_examples=40)
@given(TREES, st.floats(0, 2), GIVEN)
@example(LOST, 0.0, (0, 0))
def test_a_beam_of_one_is_greedy(table, alpha, lengths):
    prefix = _prefix(lengths)
    found = search(jnp.asarray(table), 1, alpha, prefix=prefix)
    expected = greedy(jnp.asarray(table), prefix)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x: x[:, 0], found), expected)


@pytest.mark.parametrize("end", [END, None])
def test_a_beam_of_all_finds_what_an_exhaustive_search_finds(end):
    table = trees.distributions(3)
    sequences = itertools.product(range(VOCABULARY), repeat=LENGTH)
    if end is not None:  # Each only once, up to its end.
        sequences = {(*itertools.takewhile(lambda x: x != END, s), END)[:LENGTH] for s in sequences}
    sequences = list(sequences)
    width = len(sequences) + 1
    for alpha in (0.0, 0.6, 3.0):
        found = search(table, width, alpha, end)
        for row in range(3):
            tree = np.asarray(table[row], np.float64)
            scores = {s: trees.score(tree, s) for s in sequences}
            order = sorted(scores, key=lambda s: -_normalized(scores[s], len(s), alpha))
            for place, sequence in enumerate(order):
                assert found.lengths[row, place] == len(sequence)
                tokens = np.asarray(found.tokens[row, place])
                np.testing.assert_array_equal(tokens[: len(sequence)], sequence)
                assert (tokens[len(sequence) :] == END).all()
                assert found.scores[row, place] == pytest.approx(scores[sequence], rel=1e-5)
            # There is no other.
            assert found.scores[row, -1] == -np.inf
            assert found.lengths[row, -1] == 0
            assert (found.tokens[row, -1] == (0 if end is None else END)).all()


def _by_hand(table, width, alpha, given):
    """The beam of one row, as (tokens, score) best first, ties as they are documented."""

    def value(hypothesis):
        tokens, score = hypothesis
        length = np.float32(max(len(tokens) - len(given), 0))
        return score / ((np.float32(5) + length) / np.float32(6)) ** np.float32(alpha)

    hypotheses = [((), np.float32(0))]
    for position in range(LENGTH):
        longer = []
        for tokens, score in hypotheses:
            if END in tokens:
                longer.append((tokens, score))
                continue
            if position < len(given):
                longer.append(((*tokens, int(given[position])), score))
                continue
            more = table[functools.reduce(trees.child, tokens, 0)]
            for token in sorted(range(VOCABULARY), key=lambda token, more=more: -more[token]):
                longer.append(((*tokens, token), score + more[token]))
        hypotheses = sorted(longer, key=value, reverse=True)[:width]
    return hypotheses


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_narrow_beam_keeps_the_best_and_of_equals_the_first(alpha):
    rows, width, rng = 200, 4, np.random.default_rng(0)
    # Whole numbers, of which many are equal and sums are exact.
    table = rng.integers(-3, 1, (rows, NODES, VOCABULARY)).astype(np.float32)
    prefixes = rng.integers(0, VOCABULARY, (rows, LENGTH))
    lengths = rng.integers(0, LENGTH + 1, rows)
    prefix = Prefix(jnp.asarray(prefixes), jnp.asarray(lengths))
    found = search(jnp.asarray(table), width, alpha, prefix=prefix)
    for row in range(rows):
        expected = _by_hand(table[row], width, alpha, prefixes[row, : lengths[row]])
        there = len(expected)
        tokens, ends, scores = (np.asarray(x[row]) for x in found)
        got = [
            (tuple(one[:end].tolist()), score)
            for one, end, score in zip(tokens[:there], ends, scores, strict=False)
        ]
        assert got == expected
        assert len(dict(expected)) == there
        assert (scores[there:] == -np.inf).all()


def test_what_is_impossible_is_no_hypothesis_even_where_the_model_then_says_nan():
    table = trees.distributions(1)
    # The end or token 1, and then the end or token 0; what follows token 0 at once is nonsense.
    table = table.at[0, 0, 0].set(-jnp.inf).at[0, trees.child(0, 0)].set(jnp.nan)
    table = table.at[0, trees.child(0, 1), 1].set(-jnp.inf)
    found = search(table, 4)
    assert np.isfinite(found.scores).all()
    assert (found.tokens[..., 0] != 0).all()


def test_nothing_behind_the_end_changes_anything():
    table = trees.distributions(3, seed=3)
    found = search(table, 4, 0.6)
    assert np.unique(found.lengths).size > 2
    jax.tree.map(np.testing.assert_array_equal, search(trees.poisoned(table), 4, 0.6), found)


def test_a_row_depends_on_no_other_row_nor_on_compilation():
    table = trees.distributions(3, seed=4)
    whole = search(table, 4, 0.6)
    with jax.numpy_dtype_promotion("strict"):
        plain = _search(table, 4, 0.6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), whole, plain)
    for row in range(3):
        alone = search(table[row : row + 1], 4, 0.6)
        jax.tree.map(
            lambda x, y, row=row: np.testing.assert_array_equal(x[row], y[0]), whole, alone
        )


def test_it_stops_when_all_hypotheses_have_ended_and_compiles_once():
    asked, traced, traced_first = [], [], 0

    @jax.jit
    def decode(table, alpha):
        step = trees.step_of(table)

        def counted(carry, tokens):
            traced.append(1)
            jax.debug.callback(lambda: asked.append(1))
            return step(carry, tokens)

        inputs = counted, trees.carry(2), jnp.zeros(2, jnp.int32)
        options = {"beam_width": 8, "max_length": LENGTH, "end": END, "length_penalty": alpha}
        return decoding.beam_search(*inputs, **options)

    # The only sentences: the end, and any token before it.
    certain = jnp.full((2, NODES, VOCABULARY), -jnp.inf).at[:, :, END].set(0.0)
    for alpha in (0.0, 1.0):
        found = decode(certain.at[:, 0].set(-1.0), alpha)
        jax.effects_barrier()
        assert len(asked) == 2
        np.testing.assert_array_equal(found.lengths, [[2, 2, 1, 0, 0, 0, 0, 0]] * 2)
        asked.clear()
        traced_first = traced_first or len(traced)
        assert len(traced) == traced_first


def test_the_penalty_is_the_equation_and_impossible_arguments_are_refused():
    lengths, alpha = np.arange(6), 0.65
    np.testing.assert_allclose(
        beam.penalty(jnp.asarray(lengths), alpha), ((5 + lengths) / 6) ** alpha, rtol=1e-6
    )
    table = trees.distributions(2)
    fit = {"carry": trees.carry(2), "start": jnp.zeros(2, jnp.int32), "beam_width": 1}
    fit |= {"step": trees.step_of(table), "max_length": 2}
    for change, message in (
        ({"beam_width": 0}, "beam_width=0: it must be at least 1"),
        ({"max_length": 0}, "max_length=0: it must be at least 1"),
        ({"length_penalty": -1.0}, "length_penalty=-1.0: it must be at least 0"),
        ({"end": -1}, "end=-1: it must be at least 0 and at most 2"),
        ({"carry": trees.carry(3)}, r"has the shape \(3,.*that of the 2 start tokens"),
    ):
        with pytest.raises(UsageError, match=message):
            decoding.beam_search(**{**fit, **change})
