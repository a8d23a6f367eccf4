"""Greedy decoding and sampling on trees that are followed by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dlcore import decoding, parallel
from dlcore.decoding import Prefix
from dlcore.errors import UsageError
from tests import trees
from tests.trees import END, LENGTH, VOCABULARY

ROWS = 8
KEY = jax.random.key(3)
# Of the last row more is said to be given than there is.
PREFIX = Prefix(jnp.tile(jnp.array([[0, 1, 1]]), (ROWS, 1)), jnp.array([0, 1, 2, 3, 0, 1, 2, 9]))
NO_PREFIX = Prefix(PREFIX.tokens, jnp.zeros_like(PREFIX.lengths))


def _greedy(table, end=END, prefix=NO_PREFIX):
    rows = table.shape[0]
    inputs = trees.step_of(table), trees.carry(rows), jnp.zeros(rows, jnp.int32)
    return decoding.greedy(*inputs, max_length=LENGTH, end=end, prefix=prefix)


def _sample(table, key=KEY, temperature=1.0, nucleus=1.0, prefix=NO_PREFIX):
    rows = table.shape[0]
    inputs = trees.step_of(table), trees.carry(rows), jnp.zeros(rows, jnp.int32), key
    return decoding.sample(
        *inputs,
        max_length=LENGTH,
        end=END,
        temperature=temperature,
        top_k=2,
        nucleus=nucleus,
        prefix=prefix,
    )


greedy = jax.jit(_greedy, static_argnames="end")
sample = jax.jit(_sample)


def _equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def _check_each(table, found, prefix=NO_PREFIX, end=END):
    """Lengths, filling and scores are those of the tokens."""
    for row, (tokens, length, score) in enumerate(zip(*map(np.asarray, found), strict=True)):
        ended = np.flatnonzero(tokens == END) if end == END else np.array([], int)
        assert length == (ended[0] + 1 if ended.size else LENGTH)
        assert (tokens[length:] == END).all()
        given = min(int(prefix.lengths[row]), 3)
        expected = trees.score(table[row], tokens[:length], given)
        assert score == pytest.approx(expected, rel=1e-5, abs=1e-6)
        np.testing.assert_array_equal(tokens[:given], prefix.tokens[row, :given])


def test_greedy_takes_the_likeliest_token_until_the_end():
    table = trees.distributions(ROWS)
    for prefix in (NO_PREFIX, PREFIX):
        found = greedy(table, prefix=prefix)
        _check_each(table, found, prefix)
        for row in range(ROWS):
            node, given = 0, min(int(prefix.lengths[row]), 3)
            for position in range(int(found.lengths[row])):
                token = int(found.tokens[row, position])
                assert position < given or token == table[row, node].argmax()
                node = trees.child(node, token)
        assert np.unique(found.lengths).size > 1
    unended = greedy(table, end=None)
    assert (unended.lengths == LENGTH).all()
    assert (unended.tokens == END).any()
    _check_each(table, unended, end=None)


def test_of_equally_likely_tokens_greedy_takes_the_first():
    assert (greedy(jnp.zeros((ROWS, trees.NODES, VOCABULARY))).tokens == 0).all()


def test_samples_have_the_prefix_the_end_and_the_score_of_their_tokens():
    table = trees.distributions(ROWS, seed=1)
    for prefix in (NO_PREFIX, PREFIX):
        found = sample(table, prefix=prefix, temperature=2.0)
        _check_each(table, found, prefix)
    other = sample(table, jax.random.key(4), temperature=2.0, prefix=PREFIX)
    assert (other.tokens != found.tokens).any()
    _equal(found, sample(table, prefix=PREFIX, temperature=2.0))


def test_at_temperature_zero_and_in_a_nucleus_of_one_token_samples_are_greedy():
    table = trees.distributions(ROWS, seed=2)
    expected = greedy(table)
    _equal(sample(table, temperature=0.0, nucleus=0.9), expected)
    _equal(sample(table, temperature=1e-6, nucleus=0.9), expected)
    _equal(sample(table, nucleus=1e-6), expected)


def test_draws_have_the_frequencies_of_the_distribution_that_is_left():
    count, probabilities = 20_000, np.array([0.4, 0.25, 0.2, 0.1, 0.05])

    @functools.partial(jax.jit, static_argnames="top_k")
    def pairs(temperature, top_k, nucleus):
        scores = jnp.broadcast_to(jnp.log(probabilities), (count, 5))
        return decoding.sample(
            lambda carry, tokens: (scores, carry),
            None,
            jnp.zeros(count, jnp.int32),
            KEY,
            max_length=2,
            temperature=temperature,
            top_k=top_k,
            nucleus=nucleus,
        ).tokens

    # With the tokens that are left: the nucleus is that of what temperature and top-k have made.
    for temperature, top_k, nucleus, left in (
        (1.0, None, None, 5),
        (2.0, 3, 1.0, 3),
        (0.5, 3, 0.83, 2),
    ):
        kept = np.where(np.arange(5) < left, probabilities ** (1 / temperature), 0)
        kept /= kept.sum()
        expected = count * np.outer(kept, kept).ravel()
        first, second = np.asarray(pairs(temperature, top_k, nucleus)).T
        counts = np.bincount(5 * first + second, minlength=25)
        assert (counts[expected == 0] == 0).all()
        expected, counts = expected[expected > 0], counts[expected > 0]
        # Exceeded once in 100,000 keys by 24 degrees of freedom.
        assert ((counts - expected) ** 2 / expected).sum() < 67.3


def test_nothing_behind_the_end_changes_anything():
    table = trees.distributions(ROWS, seed=3)
    for decode in (greedy, sample):
        _equal(decode(trees.poisoned(table)), decode(table))


def test_a_row_depends_on_no_other_row():
    table, others = trees.distributions(ROWS, seed=4), trees.distributions(ROWS, seed=5)
    whole, other = sample(table), sample(others.at[2].set(table[2]))
    _equal([x[2] for x in whole], [x[2] for x in other])
    part = jax.jit(functools.partial(_sample, prefix=None))(table[:3])
    _equal([x[:3] for x in whole], list(part))


def test_rows_that_are_equal_are_drawn_by_themselves():
    tokens = sample(jnp.zeros((ROWS, trees.NODES, VOCABULARY))).tokens
    assert len({tuple(row) for row in tokens.tolist()}) > 1


def test_draws_are_the_same_on_any_number_of_devices():
    table = trees.distributions(ROWS, seed=6)
    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), (parallel.AXIS,))
    sharded = jax.shard_map(
        functools.partial(_sample, prefix=None),
        mesh=mesh,
        in_specs=(split, whole),
        out_specs=split,
        check_vma=False,
    )
    assert jax.device_count() == ROWS
    _equal(jax.jit(sharded)(table, KEY), sample(table))


def test_it_stops_when_all_rows_have_ended_and_compiles_once():
    asked, traced, traced_first = [], [], 0

    @jax.jit
    def decode(table, temperature, lengths):
        step = trees.step_of(table)

        def counted(carry, tokens):
            traced.append(1)
            jax.debug.callback(lambda: asked.append(1))
            return step(carry, tokens)

        return decoding.sample(
            counted,
            trees.carry(ROWS),
            jnp.zeros(ROWS, jnp.int32),
            KEY,
            max_length=LENGTH,
            end=END,
            temperature=temperature,
            nucleus=1 - temperature / 10,
            prefix=Prefix(PREFIX.tokens, lengths),
        )

    # The end is certain as soon as nothing else is given.
    table = jnp.full((ROWS, trees.NODES, VOCABULARY), -jnp.inf).at[:, :, END].set(0.0)
    for longest in (0, 1, 2):
        found = decode(table, longest / 2, jnp.minimum(PREFIX.lengths, longest))
        jax.effects_barrier()
        assert len(asked) == longest + 1
        assert found.lengths.max() == longest + 1
        asked.clear()
        traced_first = traced_first or len(traced)
        assert len(traced) == traced_first


def test_compiled_or_not_the_result_is_the_same():
    table = trees.distributions(ROWS, seed=7)
    found, expected = greedy(table, prefix=PREFIX), _greedy(table, prefix=PREFIX)
    _equal(found[:2], expected[:2])
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    with jax.numpy_dtype_promotion("strict"):
        assert jax.eval_shape(_sample, table).scores.dtype == jnp.float32


def test_impossible_arguments_are_refused_by_name():
    table = trees.distributions(2)
    start = jnp.zeros(2, jnp.int32)
    fit = {"step": trees.step_of(table), "carry": trees.carry(2), "start": start, "max_length": 2}
    for change, message in (
        ({"max_length": 0}, "max_length=0: it must be at least 1"),
        ({"end": 3}, "end=3: it must be at least 0 and at most 2"),
        ({"temperature": -0.1}, "temperature=-0.1: it must be at least 0"),
        ({"temperature": float("nan")}, "temperature=nan: it must be at least 0"),
        ({"top_k": 0}, "top_k=0: it must be at least 1"),
        ({"nucleus": 0.0}, "nucleus=0.0: it must be above 0 and at most 1"),
        ({"nucleus": 1.1}, "nucleus=1.1: it must be above 0 and at most 1"),
        ({"carry": {"index": jnp.zeros(())}}, r"carry\['index'\] has the shape \(\)"),
        ({"prefix": Prefix(jnp.zeros((2, 3), int), start)}, "the prefix has 3 tokens"),
        ({"prefix": Prefix(jnp.zeros((1, 2), int), start)}, r"tokens of the shape \(1, 2\)"),
    ):
        with pytest.raises(UsageError, match=message):
            decoding.sample(**{"key": KEY, **fit, **change})
    with pytest.raises(UsageError, match="max_length=0"):
        decoding.greedy(**{**fit, "max_length": 0})
