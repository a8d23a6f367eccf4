"""Losses against NumPy and SciPy in float64, and the laws that they obey."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dlcore import losses

CLASSES = 5
ROWS = 4
CLOSE = {"rtol": 1e-5, "atol": 1e-6}

numbers = npst.arrays(np.float32, (ROWS, CLASSES), elements=st.floats(-30, 30, width=32)).map(
    jnp.asarray
)
labels = npst.arrays(np.int32, ROWS, elements=st.integers(0, CLASSES - 1)).map(jnp.asarray)
counts = npst.arrays(np.int32, (ROWS, CLASSES), elements=st.integers(0, 1000))
few = settings(max_examples=30, deadline=None)


def distributions(counts):
    """Rows of frequencies; where nothing was counted, the uniform distribution."""
    counts = np.where(counts.any(1, keepdims=True), counts, 1)
    return jnp.asarray(counts / counts.sum(1, keepdims=True), jnp.float32)


@few
@given(predictions=numbers, targets=numbers)
def test_the_losses_of_outputs_are_sums_and_a_mean_over_an_example_s_outputs(predictions, targets):
    error = np.float64(predictions) - np.float64(targets)
    square = (error**2).sum(1)
    expected = {
        "square": square,
        "half_square": square / 2,
        "mean_square": square / CLASSES,
        "absolute": np.abs(error).sum(1),
    }
    assert losses.OF_OUTPUTS.keys() == expected.keys()
    for name, loss in losses.OF_OUTPUTS.items():
        np.testing.assert_allclose(loss(predictions, targets), expected[name], **CLOSE)


def test_the_half_square_has_the_error_itself_for_its_gradient():
    rng = np.random.default_rng(0)
    predictions, targets = jnp.asarray(rng.normal(size=(2, ROWS, CLASSES)), jnp.float32)
    gradient = jax.grad(lambda p: losses.half_square(p, targets).sum())(predictions)
    np.testing.assert_allclose(gradient, predictions - targets, rtol=1e-6)


def test_the_absolute_loss_has_the_error_s_sign_for_its_gradient_and_none_at_the_target():
    targets = jnp.array([[1.0, 1.0, 1.0]])
    gradient = jax.grad(lambda p: losses.absolute(p, targets).sum())(jnp.array([[0.5, 1.0, 9.0]]))
    np.testing.assert_array_equal(gradient, [[-1, 0, 1]])


def test_squares_are_least_at_the_mean_and_absolute_values_at_the_median():
    targets = jnp.array([[0.0], [1.0], [2.0], [3.0], [14.0]])
    guesses = np.arange(0, 14.5, 0.5)

    def best(loss):
        return guesses[
            np.argmin([loss(jnp.full((5, 1), guess), targets).sum() for guess in guesses])
        ]

    assert best(losses.square) == 4.0
    assert best(losses.absolute) == 2.0


def test_zero_one_counts_errors_not_right_answers():
    scores = jnp.array([[1.0, 2.0, 0.0], [3.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(losses.zero_one(scores, jnp.array([1, 2, 2])), [0, 1, 0])


@few
@given(logits=numbers, counts=counts)
def test_binary_cross_entropy_is_the_likelihood_s_logarithm(logits, counts):
    targets = jnp.asarray(counts / 1000, jnp.float32)
    log_p, log_not_p = (scipy.special.log_expit(sign * np.float64(logits)) for sign in (1, -1))
    share = np.float64(targets)
    expected = -(share * log_p + (1 - share) * log_not_p).sum(1)
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, targets), expected, **CLOSE)


def test_binary_cross_entropy_stays_right_where_a_sigmoid_rounds_to_0_or_1():
    logits = jnp.array([[1000.0, -1000.0, 50.0]])
    targets = jnp.array([[0.0, 1.0, 1.0]])
    assert float(losses.binary_cross_entropy(logits, targets)[0]) == pytest.approx(2000)
    gradient = jax.grad(lambda z: losses.binary_cross_entropy(z, targets).sum())(logits)
    np.testing.assert_allclose(gradient, [[1, -1, -np.exp(-50)]], rtol=1e-5)


@few
@given(counts=counts)
def test_entropy_is_between_that_of_a_certain_and_that_of_a_uniform_distribution(counts):
    probabilities = distributions(counts)
    entropy = losses.entropy(probabilities)
    np.testing.assert_allclose(
        entropy, scipy.stats.entropy(np.float64(probabilities), axis=1), **CLOSE
    )
    assert (entropy >= 0).all()
    assert (entropy <= np.log(CLASSES) * (1 + 1e-6)).all()


def test_entropy_is_0_for_a_certain_and_the_logarithm_for_a_uniform_distribution():
    np.testing.assert_array_equal(losses.entropy(jnp.eye(CLASSES)), np.zeros(CLASSES))
    assert float(losses.entropy(jnp.full(8, 1 / 8))) == pytest.approx(np.log(8))


@few
@given(logits=numbers, counts=counts, shift=st.floats(-100, 100, width=32))
def test_kl_divergence_is_never_negative_and_knows_no_shift_of_the_logits(logits, counts, shift):
    targets = distributions(counts)
    divergence = losses.kl_divergence(logits, targets)
    log_q = scipy.special.log_softmax(np.float64(logits), axis=1)
    share = np.float64(targets)
    expected = (scipy.special.xlogy(share, share) - share * log_q).sum(1)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(divergence, expected, **close)
    assert (divergence >= -1e-5).all()
    np.testing.assert_allclose(losses.kl_divergence(logits + shift, targets), divergence, atol=1e-3)
    cross_entropy = optax.losses.softmax_cross_entropy(logits, targets)
    np.testing.assert_allclose(divergence, cross_entropy - losses.entropy(targets), **close)


@few
@given(logits=numbers)
def test_kl_divergence_is_0_from_a_distribution_to_itself(logits):
    divergence = losses.kl_divergence(logits, jax.nn.softmax(logits))
    np.testing.assert_allclose(divergence, 0, atol=1e-4)


@few
@given(scores=numbers, labels=labels)
def test_hinge_is_the_margin_to_the_best_rival_and_with_cross_entropy_bounds_zero_one(
    scores, labels
):
    hinge = optax.losses.multiclass_hinge_loss(scores, labels)
    for row, label in enumerate(np.asarray(labels)):
        own = np.float64(scores[row])
        margin = own[label] - np.delete(own, label).max()
        assert float(hinge[row]) == pytest.approx(max(0.0, 1 - margin), rel=1e-4, abs=1e-4)
    wrong = losses.zero_one(scores, labels)
    bits = optax.losses.softmax_cross_entropy_with_integer_labels(scores, labels) / np.log(2)
    assert (hinge >= wrong - 1e-5).all()
    assert (bits >= wrong * (1 - 1e-5)).all()


@few
@given(score=st.floats(-30, 30, width=32), label=st.integers(0, 1))
def test_with_two_classes_the_losses_of_several_are_those_of_one_output(score, label):
    both, one = jnp.array([[0.0, score]]), jnp.array([[score]])
    hinge = optax.losses.multiclass_hinge_loss(both, jnp.array([label]))[0]
    assert float(hinge) == pytest.approx(
        float(optax.losses.hinge_loss(score, 2 * label - 1)), abs=1e-5
    )
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(both, jnp.array([label]))[0]
    binary = losses.binary_cross_entropy(one, jnp.array([[float(label)]]))[0]
    assert float(nats) == pytest.approx(float(binary), rel=1e-5, abs=1e-6)


def test_ctc_is_the_probability_of_all_alignments_together():
    # Graves et al. (2006), eq. 3: paths of 5 frames over blank (0) and two symbols that read 1 2 2
    # once repeats are merged and blanks are dropped.
    logits = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    log_p = scipy.special.log_softmax(np.float64(logits), axis=1)
    total = 0.0
    for path in itertools.product(range(3), repeat=5):
        merged = [symbol for symbol, _ in itertools.groupby(path)]
        if [symbol for symbol in merged if symbol] == [1, 2, 2]:
            total += np.exp(log_p[np.arange(5), path].sum())
    loss = optax.losses.ctc_loss(
        logits[None], np.zeros((1, 5)), np.array([[1, 2, 2]]), np.zeros((1, 3))
    )
    assert float(loss[0]) == pytest.approx(-np.log(total), rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_top_k_error_is_the_share_of_labels_behind_the_k_best(count):
    rng = np.random.default_rng(count)
    # Of integers, so that some are equal: then the first ones are before the others.
    scores = rng.integers(0, 8, (200, 9)).astype(np.float32)
    scores[-1] = np.nan
    labels = rng.integers(0, 9, 200)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    expected = [label not in row for label, row in zip(labels, best, strict=True)]
    expected[-1] = True
    found = losses.not_among(jnp.asarray(scores), jnp.asarray(labels), count)
    np.testing.assert_array_equal(found, expected)
    if count == 1:
        zero_one = losses.zero_one(jnp.asarray(scores), jnp.asarray(labels))
        np.testing.assert_array_equal(found, zero_one)


@pytest.mark.parametrize("scores", [(300.0, 290.0, 0.0), (-1e4,) * 7, (1e4, 0.0), (3e5, 3e5 - 4)])
def test_cross_entropy_keeps_its_digits_at_scores_of_any_size(scores):
    labels = jnp.arange(len(scores))
    found = losses.cross_entropy(jnp.tile(jnp.array(scores), (len(scores), 1)), labels)
    expected = -scipy.special.log_softmax(np.array(scores, np.float64))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-30)


def test_a_score_of_nan_is_wrong_whatever_the_label():
    scores = jnp.array([[np.nan, np.nan], [np.nan, 1.0], [1.0, np.nan], [1.0, 0.0]])
    np.testing.assert_array_equal(losses.zero_one(scores, jnp.array([0, 0, 0, 0])), [1, 1, 1, 0])
    np.testing.assert_array_equal(losses.zero_one(scores, jnp.array([1, 1, 1, 1])), [1, 1, 1, 1])
