"""Metrics: sums that merge in any order and any grouping, against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlcore import metrics
from dlcore.metrics import ExponentialOfMean, Mean, Rows, RSquared, Sum

FINITE = st.floats(-100, 100, width=32)
VALUES = hnp.arrays(np.float32, st.integers(1, 12), elements=FINITE)


@given(values=VALUES, data=st.data())
def test_a_mean_is_over_the_unmasked_values_only(values, data):
    mask = data.draw(hnp.arrays(np.float32, values.shape, elements=st.sampled_from([0.0, 1.0])))
    mean = Mean.of(values, mask).compute()
    if mask.any():
        expected = np.mean(np.float64(values[mask > 0]))
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)
    else:
        assert np.isnan(mean)


@given(values=VALUES)
def test_a_mean_without_a_mask_is_over_everything(values):
    np.testing.assert_allclose(
        Mean.of(values).compute(), np.mean(np.float64(values)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf])
def test_what_is_masked_may_hold_anything(rubbish):
    values, mask = np.array([[1.0, rubbish], [2.0, 3.0]]), np.array([[1.0, 0.0], [1.0, 1.0]])
    assert Mean.of(values, mask).compute() == 2.0


@given(batches=st.lists(VALUES, min_size=1, max_size=5), order=st.randoms())
def test_batches_of_any_size_merge_in_any_order_to_the_mean_of_all_their_values(batches, order):
    expected = np.mean(np.float64(np.concatenate(batches)))
    order.shuffle(batches)
    merged, *rest = [
        {"loss": Mean.of(batch), "errors": Sum(jnp.sum(batch > 0))} for batch in batches
    ]
    for one in rest:
        merged = metrics.merge(merged, one)
    values = metrics.compute(merged)
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-5, atol=1e-4)
    assert values["errors"] == sum((batch > 0).sum() for batch in batches)


def test_the_mean_of_unequal_batches_is_not_the_mean_of_their_means():
    small, large = Mean.of(np.array([10.0])), Mean.of(np.zeros(9))
    assert metrics.merge({"loss": small}, {"loss": large})["loss"].compute() == 1.0


@given(values=hnp.arrays(np.float32, st.integers(1, 12), elements=st.floats(0, 5, width=32)))
def test_perplexity_is_the_exponential_of_the_mean_of_all_batches(values):
    nats = Mean.of(values)
    perplexity = ExponentialOfMean(nats.total, nats.count)
    np.testing.assert_allclose(perplexity.compute(), np.exp(np.mean(np.float64(values))), rtol=1e-5)
    twice = metrics.merge({"perplexity": perplexity}, {"perplexity": perplexity})["perplexity"]
    np.testing.assert_allclose(twice.compute(), perplexity.compute(), rtol=1e-6)


def test_values_are_plain_floats_and_matrices_stay_arrays():
    confusion = jnp.eye(3, dtype=jnp.int32)
    sums = {
        "errors": Sum(jnp.float32(3)),
        "confusion": Sum(confusion),
        "loss": Mean.of(jnp.ones(2)),
    }
    values = metrics.compute(sums)
    assert type(values["errors"]) is float
    assert type(values["loss"]) is float
    assert isinstance(values["confusion"], np.ndarray)
    np.testing.assert_array_equal(values["confusion"], np.eye(3))


def test_metrics_are_made_inside_a_compiled_program_as_outside():
    values, mask = jnp.arange(4.0), jnp.array([1.0, 0.0, 1.0, 1.0])
    compiled = jax.jit(Mean.of)(values, mask)
    assert compiled.compute() == Mean.of(values, mask).compute() == 5 / 3


def test_sums_are_float32_whatever_the_values_are():
    assert Mean.of(jnp.ones(5000, jnp.bfloat16), jnp.ones(5000, jnp.bfloat16)).compute() == 1.0


def test_r_squared_merges_to_that_of_all_batches_and_is_0_for_the_targets_mean():
    rng = np.random.default_rng(0)
    targets = rng.normal([3, -1], [2, 1], (30, 2)).astype(np.float32)
    predictions = targets + rng.normal(size=(30, 2)).astype(np.float32)
    mask = np.ones(30, np.float32)
    parts = (slice(0, 7), slice(7, 30))
    merged = metrics.merge(
        *({"r": RSquared.of(predictions[part], targets[part], mask[part])} for part in parts)
    )
    errors = np.square(np.float64(predictions) - targets).sum(0)
    expected = (1 - errors / (30 * targets.astype(np.float64).var(0))).mean()
    assert metrics.compute(merged)["r"] == pytest.approx(expected, rel=1e-5)
    constant = np.broadcast_to(targets.mean(0), targets.shape)
    assert RSquared.of(constant, targets, mask).compute() == pytest.approx(0, abs=1e-5)
    assert RSquared.of(targets, targets, mask).compute() == 1
    assert np.isnan(RSquared.of(predictions, np.ones_like(targets), mask).compute())


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_rows_of_any_batches_are_the_real_ones_in_their_order(sizes, data):
    numbers = np.arange(sum(sizes))
    mask = data.draw(hnp.arrays(np.float32, len(numbers), elements=st.sampled_from([0.0, 1.0])))
    values = {"number": numbers, "pair": np.stack([numbers, -numbers], 1)}
    batches = zip(
        *(np.split(array, np.cumsum(sizes)[:-1]) for array in (*values.values(), mask)), strict=True
    )
    merged, *rest = [{"rows": Rows({"number": n, "pair": p}, m)} for n, p, m in batches]
    for one in rest:
        merged = metrics.merge(merged, one)
    found = metrics.compute(merged)["rows"]
    for name, array in values.items():
        np.testing.assert_array_equal(found[name], array[mask > 0])


def test_a_score_that_is_no_sum_is_a_number_of_all_rows():
    class Median(Rows):
        def compute(self):
            return float(np.median(self.real()))

    batches = [np.array([5.0, 1.0, 99.0]), np.array([2.0])]
    masks = [np.array([1.0, 1.0, 0.0]), np.array([1.0])]
    first, second = (Median(*batch) for batch in zip(batches, masks, strict=True))
    merged = metrics.merge({"median": first}, {"median": second})
    assert isinstance(merged["median"], Median)
    # Neither the mean of the medians (2.5) nor what the padded row would make of it.
    assert metrics.compute(merged) == {"median": 2.0}
