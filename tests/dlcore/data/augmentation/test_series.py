"""Changes in time, against the same slices taken with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.data.augmentation import series

KEYS = jax.random.split(jax.random.key(0), 500)


def series_of(shape):
    return np.random.default_rng(0).normal(5, 1, shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(10,), (10, 4, 1)])
def test_a_shift_in_time_repeats_the_end_that_it_uncovers(shape):
    values = series_of(shape)
    padded = np.pad(values, ((3, 3), *((0, 0),) * (len(shape) - 1)), mode="edge")
    moved = {padded[begin : begin + 10].tobytes(): 3 - begin for begin in range(7)}
    shift = jax.vmap(lambda key: series.time_shift(key, 0.3, jnp.asarray(values)))
    steps = [moved[one.tobytes()] for one in np.asarray(shift(KEYS))]
    # Every step of up to 3 of the 10, about equally often.
    counts = np.unique(steps, return_counts=True)
    np.testing.assert_array_equal(counts[0], np.arange(-3, 4))
    assert counts[1].min() > 500 / 7 - 5 * np.sqrt(500 / 7)


@pytest.mark.parametrize(("shape", "longest"), [((10,), 10), ((10, 4, 1), 4)])
def test_a_mask_in_time_hides_one_stretch_behind_the_mean(shape, longest):
    values = series_of(shape)
    mask = jax.vmap(lambda key: series.time_mask(key, longest / 10, jnp.asarray(values)))
    lengths, begins = [], []
    for masked in np.asarray(mask(KEYS)):
        hidden = np.flatnonzero((masked != values).reshape(10, -1).all(axis=1))
        shown = np.setdiff1d(np.arange(10), hidden)
        np.testing.assert_array_equal(masked[shown], values[shown])
        mean = np.broadcast_to(values.mean(0), (len(hidden), *shape[1:]))
        np.testing.assert_allclose(masked[hidden], mean, rtol=1e-6)
        assert len(hidden) == 0 or hidden[-1] - hidden[0] == len(hidden) - 1
        lengths.append(len(hidden))
        if len(hidden) == 4:
            begins.append(hidden[0])
    # Each number of steps about equally often, and 4 at every place at which as many may begin.
    counts = np.unique(lengths, return_counts=True)
    np.testing.assert_array_equal(counts[0], np.arange(longest + 1))
    expected = 500 / (longest + 1)
    assert counts[1].min() > expected - 5 * np.sqrt(expected)
    assert set(begins) == set(range(7))
