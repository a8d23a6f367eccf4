"""Evaluation counts every example exactly once, in order, and its sums are exact."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import metrics, parallel
from dlcore.errors import UsageError
from dlcore.train.evaluation import evaluate


def counting_program(parallelism: str = "jit", devices: int = 4) -> Any:
    """What `evaluate` needs of a program.

    Its metrics: the mean of the values, how many there are of each of three kinds, and both as
    rows.
    """
    layout = parallel.make(parallelism, devices=jax.devices()[:devices])

    def count(state, batch, number):
        del state, number
        mask = batch["mask"]
        counts = jnp.zeros(3, jnp.int32).at[batch["kind"]].add(mask.astype(jnp.int32))
        mean = metrics.Mean.of(batch["value"], mask)
        rows = metrics.Rows({"value": batch["value"], "kind": batch["kind"]}, mask)
        return metrics.reduce({"value": mean, "kinds": metrics.Sum(counts), "rows": rows})

    compiled = layout.compile_evaluation(count, jnp.zeros(()))
    return types.SimpleNamespace(parallelism=layout, evaluate=compiled)


def batches_of(values, kinds, size, padding):
    """Batches of that size; `padding` fills up the last one, masked."""
    for start in range(0, len(values), size):
        present = len(values[start : start + size])
        fill = (0, size - present)
        yield {
            "value": np.pad(values[start : start + size], fill, constant_values=padding),
            "kind": np.pad(kinds[start : start + size], fill),
            "mask": np.pad(np.ones(present, np.float32), fill),
        }


def place(program, state):
    return program.parallelism.place_state(state)


@pytest.mark.parametrize("parallelism", ["jit", "pmap", "data", "fsdp"])
def test_every_example_counts_once_and_in_its_place_whatever_the_padding_holds(parallelism):
    program = counting_program(parallelism)
    # One example, a whole batch, and a last batch that leaves two of four devices nothing.
    for count in (1, 16, 37):
        rng = np.random.default_rng(count)
        values, kinds = rng.normal(size=count).astype(np.float32), rng.integers(3, size=count)
        batches = batches_of(values, kinds, 16, padding=np.nan)
        results = evaluate(program, place(program, jnp.zeros(())), batches)
        assert results["value"] == pytest.approx(values.astype(np.float64).mean(), rel=1e-5)
        np.testing.assert_array_equal(results["kinds"], np.bincount(kinds, minlength=3))
        np.testing.assert_array_equal(results["rows"]["value"], values)
        np.testing.assert_array_equal(results["rows"]["kind"], kinds)


def test_sums_over_many_batches_are_exact():
    # In float32 the count would stay at 2**24 from there on.
    @jax.jit
    def large(state, batch, number):
        del number
        return {"value": metrics.Mean(state + 1.0, batch["mask"].sum() * 2**24)}

    batches = ({"mask": np.ones(1, np.float32)} for _ in range(3))
    odd = [{"mask": np.full(1, 2.0**-24, np.float32)}]
    result = evaluate(counting_program(), jnp.zeros(()), [*batches, *odd], compiled=large)
    assert result["value"] == 4 / (3 * 2**24 + 1)


def test_batches_are_numbered_from_0():
    def numbered(state, batch, number):
        return {"number": metrics.Rows(number[None], batch["mask"])}

    batches = ({"mask": np.ones(1, np.float32)} for _ in range(3))
    result = evaluate(counting_program(), jnp.zeros(()), batches, compiled=jax.jit(numbered))
    np.testing.assert_array_equal(result["number"], [0, 1, 2])


def test_each_batch_is_reported_once_it_is_done():
    program = counting_program()
    done = []
    batches = batches_of(np.zeros(40, np.float32), np.zeros(40, int), 8, padding=0)
    evaluate(program, jnp.zeros(()), batches, lambda: done.append(1))
    assert len(done) == 5


def test_an_empty_split_is_refused():
    with pytest.raises(UsageError, match="the split has no examples"):
        evaluate(counting_program(), jnp.zeros(()), iter([]))


def test_a_batch_that_cannot_be_read_is_the_error_that_is_raised():
    def broken():
        yield from batches_of(np.zeros(8, np.float32), np.zeros(8, int), 8, padding=0)
        raise UsageError("image 9 is damaged")

    with pytest.raises(UsageError, match="image 9 is damaged"):
        evaluate(counting_program(), jnp.zeros(()), broken())


def test_evaluation_changes_neither_the_state_nor_the_next_evaluation(training):
    small = training()
    state = small.program.initialize()
    before = jax.device_get(state)
    first, second = (
        evaluate(small.program, state, small.dataset.evaluation_batches("validation", 8))
        for _ in range(2)
    )
    assert set(first) == {"loss", "accuracy"}
    jax.tree.map(np.testing.assert_array_equal, first, second)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)


def test_an_evaluation_says_how_many_predictions_are_nan(caplog):
    @jax.jit
    def judge(state, batch, number):
        del state, number
        return {"nan_predictions": metrics.NanPredictions.of(batch["value"], batch["mask"])}

    values = np.array([np.nan, 1, 2, np.nan, np.nan], np.float32)
    batches = batches_of(values, np.zeros(5, int), 4, padding=np.nan)
    result = evaluate(counting_program(), jnp.zeros(()), batches, compiled=judge)
    assert result == {"nan_predictions": 3}
    assert "3 predictions are NaN: each counts as a wrong one" in caplog.text
    caplog.clear()
    batches = batches_of(np.zeros(5, np.float32), np.zeros(5, int), 4, padding=np.nan)
    assert evaluate(counting_program(), jnp.zeros(()), batches, compiled=judge) == {}
    assert not caplog.text
