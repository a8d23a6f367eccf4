"""The sets of tokens that may be drawn, against their definitions in NumPy."""

import jax.numpy as jnp
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dlcore.decoding import filters

# Few values, so that some tokens are equally likely.
WEIGHTS = npst.arrays(np.float32, (2, 5), elements=st.sampled_from([0.25, 1, 2, 4]))


@given(WEIGHTS, st.integers(1, 6))
def test_the_k_most_probable_tokens_are_kept_of_equal_ones_the_first(weights, k):
    kept = np.asarray(filters.top_k(jnp.log(weights), k))
    for row, found in zip(weights, kept, strict=True):
        expected = sorted(range(5), key=lambda token: (-row[token], token))[:k]
        assert set(np.flatnonzero(found)) == set(expected)


@given(WEIGHTS, st.floats(0.01, 0.99))
def test_the_nucleus_is_the_smallest_set_of_at_least_that_probability(weights, p):
    kept = np.asarray(filters.nucleus(jnp.log(weights), p))
    for row, found in zip(weights / weights.sum(-1, keepdims=True), kept, strict=True):
        order = np.argsort(-row, stable=True)
        sums = row[order].cumsum()
        assume((abs(sums - p) > 1e-5).all())  # There, rounding decides.
        assert set(np.flatnonzero(found)) == set(order[: np.searchsorted(sums, p) + 1])


def test_a_nucleus_of_everything_has_what_is_too_unlikely_to_change_a_sum():
    scores = jnp.array([[0.0, -40.0, -80.0], [-80.0, 0.0, -40.0]])
    assert filters.nucleus(scores, 1.0).all()
    np.testing.assert_array_equal(
        filters.nucleus(scores, 1e-6), [[True, False, False], [False, True, False]]
    )
