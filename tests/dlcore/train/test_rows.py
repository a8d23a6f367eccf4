"""What a function of a model and a batch gives for every example, on any number of devices."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from dlcore import parallel
from dlcore.train import Recipe, Settings
from dlcore.train.evaluation import evaluate
from dlcore.train.preparation import Prepared, prepare
from dlcore.train.session import split_batches

RECIPE = Recipe(
    name="rows", model="softmax_regression", data="iris", learning_rate=0.1, batch_size=16
)


@functools.cache
def prepared(parallelism: str) -> Prepared:
    return prepare(RECIPE, Settings(parallelism=parallelism), jax.devices()[:4])


def rows(parallelism: str, function: Any, *inputs: Any) -> Any:
    """Of every training example: more than six batches, the last of which is padded."""
    one = prepared(parallelism)
    state = one.program.parallelism.place_state(one.program.initialize())
    batches = split_batches(one, "train")
    return evaluate(one.program, state, batches, compiled=one.program.rows(function, *inputs))[
        "rows"
    ]


def scaled(variables: Any, batch: Any, factor: Any) -> Any:
    del variables
    return batch["image"] * factor


def noise(variables: Any, batch: Any, key: jax.Array) -> Any:
    del variables
    keys = parallel.example_keys(key, batch["image"].shape[0])
    return jax.vmap(jax.random.normal)(keys)


@pytest.mark.parametrize("parallelism", parallel.NAMES)
def test_inputs_reach_every_batch(parallelism):
    once, twice = (rows(parallelism, scaled, np.float32(factor)) for factor in (1, 2))
    assert len(once) == prepared(parallelism).dataset.num_examples("train")
    np.testing.assert_array_equal(twice, 2 * once)


@pytest.mark.parametrize("parallelism", parallel.NAMES)
def test_a_key_gives_every_example_its_own_noise_on_any_devices(parallelism):
    drawn = rows(parallelism, noise, jax.random.key(0))
    assert len(np.unique(drawn)) == len(drawn)
    np.testing.assert_allclose(drawn, rows("jit", noise, jax.random.key(0)), rtol=1e-6)


def test_a_function_is_traced_once_whatever_it_is_given():
    traced = []

    def counting(variables, batch, factor):
        traced.append(factor)
        return scaled(variables, batch, factor)

    for factor in (1, 2, 3):
        rows("jit", counting, np.float32(factor))
    assert len(traced) == 1
