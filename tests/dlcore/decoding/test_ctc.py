"""Labelings of frames, against the enumeration of all paths and a search by hand."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.decoding import ctc
from dlcore.errors import UsageError

TIME, VOCABULARY, BLANK, ROWS = 4, 3, 1, 12
LENGTHS = np.array([4, 4, 4, 4, 4, 4, 4, 4, 3, 2, 1, 0])
LABELINGS = 2 ** (TIME + 1) - 1  # Of up to as many labels as there are frames.

search = jax.jit(ctc.prefix_beam_search, static_argnums=(2, 3))
greedy = jax.jit(ctc.greedy, static_argnums=2)


def _frames(seed=0):
    """Log-probabilities, in some rows with impossible labels, and NaN behind a row's own frames."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(ROWS, TIME, VOCABULARY))
    scores[4:8][rng.random((4, TIME, VOCABULARY)) < 0.3] = -np.inf
    scores[..., 0] = np.maximum(scores[..., 0], -3)
    frames = np.array(jax.nn.log_softmax(scores), np.float32)
    frames[np.arange(TIME) >= LENGTHS[:, None]] = np.nan
    return frames


def _labeling(path):
    return tuple(label for label, _ in itertools.groupby(path) if label != BLANK)


def _paths(frames):
    """All paths of a row and their probabilities."""
    for path in itertools.product(range(VOCABULARY), repeat=len(frames)):
        yield path, np.exp(frames[np.arange(len(frames)), list(path)].astype(float).sum())


def _rows(found, row):
    for tokens, length, score in zip(*(np.asarray(x[row]) for x in found), strict=True):
        assert (tokens[length:] == BLANK).all()
        yield tuple(tokens[:length].tolist()), score


def test_greedy_is_the_labeling_of_the_likeliest_path():
    frames = _frames()
    found = greedy(jnp.asarray(frames), jnp.asarray(LENGTHS), BLANK)
    for row, length in enumerate(LENGTHS):
        path, probability = max(_paths(frames[row, :length]), key=lambda one: one[1])
        expected = _labeling(path)
        assert found.lengths[row] == len(expected)
        tokens = found.tokens[row].tolist()
        assert tokens == [*expected, *[BLANK] * (TIME - len(expected))]
        assert found.scores[row] == pytest.approx(np.log(probability), rel=1e-5, abs=1e-6)
    repeated = jnp.log(jax.nn.one_hot(jnp.array([[2, 2, 1, 2]]), VOCABULARY))
    assert greedy(repeated, jnp.array([4]), BLANK).tokens.tolist() == [[2, 2, BLANK, BLANK]]


def test_a_beam_of_all_labelings_has_the_probability_of_all_paths():
    for seed in range(2):
        frames = _frames(seed)
        found = search(jnp.asarray(frames), jnp.asarray(LENGTHS), LABELINGS + 1, BLANK)
        for row, length in enumerate(LENGTHS):
            expected = collections.Counter()
            for path, probability in _paths(frames[row, :length]):
                expected[_labeling(path)] += probability
            expected = {labeling: p for labeling, p in expected.items() if p}
            got = list(_rows(found, row))
            assert [score for _, score in got] == sorted((s for _, s in got), reverse=True)
            assert all(one == ((), -np.inf) for one in got[len(expected) :])
            got = dict(got[: len(expected)])
            assert got.keys() == expected.keys()
            for labeling, score in got.items():
                assert np.exp(score) == pytest.approx(expected[labeling], rel=1e-5)


def _by_hand(frames, width):
    """Hannun et al. (2014), algorithm 1: a dictionary of prefixes, in float64 probabilities."""
    beam = {(): (1.0, 0.0)}
    for frame in np.exp(frames.astype(float)):
        after = collections.defaultdict(lambda: [0.0, 0.0])
        for prefix, (in_blank, in_label) in beam.items():
            after[prefix][0] += (in_blank + in_label) * frame[BLANK]
            for label in {0, 1, 2} - {BLANK}:
                if prefix[-1:] == (label,):
                    after[prefix][1] += in_label * frame[label]
                    after[*prefix, label][1] += in_blank * frame[label]
                else:
                    after[*prefix, label][1] += (in_blank + in_label) * frame[label]
        likeliest = sorted(after, key=lambda prefix: -sum(after[prefix]))[:width]
        beam = {prefix: after[prefix] for prefix in likeliest if sum(after[prefix])}
    return {prefix: sum(both) for prefix, both in beam.items()}


@pytest.mark.parametrize("width", [1, 3])
def test_a_narrow_beam_goes_on_with_the_likeliest(width):
    for seed in range(20):
        frames = _frames(seed)
        found = search(jnp.asarray(frames), jnp.asarray(LENGTHS), width, BLANK)
        for row, length in enumerate(LENGTHS):
            expected = list(_by_hand(frames[row, :length], width).items())
            got = list(_rows(found, row))
            assert all(one == ((), -np.inf) for one in got[len(expected) :])
            for (labeling, score), (wanted, probability) in zip(got, expected, strict=False):
                assert labeling == wanted
                assert np.exp(score) == pytest.approx(probability, rel=1e-5)


def test_neither_other_rows_nor_compilation_change_a_labeling():
    frames, lengths = jnp.asarray(_frames()), jnp.asarray(LENGTHS)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    whole = search(frames, lengths, 3, BLANK)
    with jax.numpy_dtype_promotion("strict"):
        plain = ctc.prefix_beam_search(frames, lengths, 3, BLANK)
    jax.tree.map(close, whole, plain)
    jax.tree.map(lambda x, y: close(x[2:4], y), whole, search(frames[2:4], lengths[2:4], 3, BLANK))


def test_impossible_arguments_are_refused_by_name():
    frames, lengths = jnp.zeros((1, 2, 3)), jnp.array([2])
    with pytest.raises(UsageError, match="beam_width=0: it must be at least 1"):
        ctc.prefix_beam_search(frames, lengths, 0)
    for decode in (ctc.greedy, functools.partial(ctc.prefix_beam_search, beam_width=1)):
        with pytest.raises(UsageError, match="blank=3: it must be at least 0 and at most 2"):
            decode(frames, lengths, blank=3)
