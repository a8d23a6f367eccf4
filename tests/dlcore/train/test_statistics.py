"""Normalization by the whole training set, against algorithm 2 of the paper in float64 NumPy."""

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from dlcore import data, models, tasks
from dlcore.data.features import ClassLabel, Image
from dlcore.errors import UsageError
from dlcore.nn.normalization import BatchNorm
from dlcore.nn.regularization import Dropout
from dlcore.train.checkpoint import Checkpoints
from dlcore.train.loop import Loop, Plan
from dlcore.train.statistics import recompute
from tests import small

SEED, BATCH_SIZE, EPSILON = 1, 16, 1e-5


class Normalized(nn.Module):
    """Two layers, the second of which is normalized twice by the same statistics."""

    num_classes: int = 3
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(BatchNorm()(nn.Dense(4)(x.reshape(len(x), -1)), train))
        shared = BatchNorm()
        x = shared(nn.Dense(self.num_classes)(Dropout(self.dropout_rate)(x, train)), train)
        return shared(2 * x + 1, train)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.normal(3, 2, (100, 2, 2, 1)).astype(np.float32),
        "label": rng.integers(3, size=100),
    }
    features = {"image": Image((2, 2, 1)), "label": ClassLabel(("a", "b", "c"))}
    # Augmentation belongs to the training, not to the training set.
    options = {"test_fraction": 0.1, "validation_fraction": 0.1, "augment": "flip"}
    return data.from_arrays(features, {"train": arrays}, options, "blobs")


@functools.cache
def build(dataset, layout="jit", model=None, task="classification", **options):
    return small.build(
        tasks.create(task, model or Normalized()),
        dataset.example_batch(BATCH_SIZE),
        layout,
        transform=dataset.transform,
        seed=SEED,
        **{"log_every": 10, "recompute_statistics": True, **options},
    )


def by_hand(dataset, params):
    """Both layers' statistics: means over the batches of an epoch of what each batch has."""
    first, second = [], []
    batches = dataset.train_batches(BATCH_SIZE, SEED)
    for _, batch in zip(range(batches.steps_per_epoch), batches.start(0), strict=False):
        x = np.asarray(dataset.transform(batch, None, False)["image"], np.float64)
        x = np.maximum(normalized(x.reshape(BATCH_SIZE, -1), params, 0, first), 0)
        calls = []
        x = normalized(x, params, 1, calls)
        normalized(2 * x + 1, params, 1, calls, dense=False)
        second.append(np.mean(calls, axis=0))
    return np.mean(first, axis=0), np.mean(second, axis=0)


def normalized(x, params, index, statistics, dense=True):
    """A layer's output; its batch's mean and unbiased variance are appended to `statistics`."""
    if dense:
        layer = params[f"Dense_{index}"]
        x = x @ np.float64(layer["kernel"]) + layer["bias"]
    statistics.append((x.mean(0), x.var(0, ddof=1)))
    layer = params[f"BatchNorm_{index}"]
    return (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON) * layer["scale"] + layer["bias"]


@pytest.mark.parametrize("layout", ["jit", "data", "pmap", "fsdp"])
def test_each_layer_gets_the_mean_of_its_batches_statistics(dataset, layout):
    made = build(dataset, layout)
    before = made.parallelism.place_state(made.initialize())
    after = recompute(made, before, dataset.train_batches(BATCH_SIZE, SEED))
    before, after = (
        jax.device_get(made.parallelism.canonical_state(state)) for state in (before, after)
    )
    statistics = after.model_state["batch_stats"]
    for index, expected in enumerate(by_hand(dataset, before.params)):
        found = statistics[f"BatchNorm_{index}"]
        np.testing.assert_allclose(found["mean"], expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["var"], expected[1], rtol=1e-4)
    unchanged = after.replace(model_state=before.model_state)
    jax.tree.map(np.testing.assert_array_equal, unchanged, before)


def test_they_belong_to_the_parameters_that_are_evaluated(dataset):
    made = build(dataset, ema_decay=0.9)
    state = made.initialize()
    other = jax.tree.map(lambda array: 3 * array + 1, state.params)
    averaged = recompute(
        made,
        state.replace(average={**state.average, "params": other}),
        dataset.train_batches(BATCH_SIZE, SEED),
    )
    expected, _ = by_hand(dataset, jax.device_get(other))
    found = averaged.variables()["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(found["mean"], expected[0], rtol=1e-4, atol=1e-5)
    # The latest parameters keep what they have.
    jax.tree.map(np.testing.assert_array_equal, averaged.model_state, state.model_state)


class Foreign(nn.Module):
    """Normalized by Flax's own layer, whose batches' statistics cannot be asked for."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(x.reshape(len(x), -1)))


def test_wherever_averaged_parameters_are_evaluated_they_are_computed_if_they_can_be(dataset):
    averaged = {"recompute_statistics": False, "ema_decay": 0.9}
    assert build(dataset, **averaged).moments
    assert not build(dataset, recompute_statistics=False).moments
    assert not build(dataset, model=Foreign(), **averaged).moments
    assert not build(dataset, model=models.create("mlp", num_classes=3), **averaged).moments


def test_every_batch_draws_noise_of_its_own(dataset):
    made = build(dataset, model=Normalized(dropout_rate=0.5))
    batch = made.parallelism.place_batch(dataset.example_batch(BATCH_SIZE))
    state = made.initialize()
    one, same, other = (
        made.moments(state, batch, np.int32(number))["BatchNorm_1"]["mean"] for number in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


@pytest.mark.parametrize("curriculum_epochs", [0, 3])
def test_a_training_evaluates_and_saves_with_those_of_all_examples(
    dataset, tmp_path, curriculum_epochs
):
    made = build(dataset)
    options = dataclasses.replace(dataset.options, curriculum_epochs=curriculum_epochs)
    taught = dataclasses.replace(dataset, options=options)
    plan = Plan(num_steps=4, steps_per_epoch=5, log_every=10, evaluate_every=2, checkpoint_every=1)
    Loop(made, taught, plan, tmp_path, seed=SEED).run()
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    saved = checkpoints.restore_newest(made.abstract_state).state
    checkpoints.close()
    again = recompute(made, saved, dataset.train_batches(BATCH_SIZE, SEED))
    jax.tree.map(np.testing.assert_array_equal, again, saved)


@pytest.mark.parametrize(
    ("task", "model", "named"),
    [
        ("classification", models.create("mlp", num_classes=3), "MLP has no batch normalization"),
        ("perceptron", models.create("perceptron", num_classes=3), "Perceptron has an update rule"),
    ],
)
def test_a_training_that_has_none_is_refused_by_name(dataset, task, model, named):
    with pytest.raises(UsageError, match=f"^recompute_statistics.*{named}"):
        build(dataset, model=model, task=task)
