"""The perceptron's rule against a loop in NumPy and against its theorems."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dlcore import metrics, models, tasks
from dlcore.optim import builder
from tests import small


@functools.cache
def start(num_classes, inputs, rate=1.0):
    """A task, its first state and a compiled update."""
    task = tasks.create("perceptron", models.create("perceptron", num_classes=num_classes))
    optimizer = optax.sgd(rate)
    params = task.init(jax.random.key(0), {"image": jnp.zeros((1, inputs))})["params"]
    update = jax.jit(lambda state, batch: task.update(state, batch, jax.random.key(0), optimizer))
    return task, small.state(params, task.init_optimizer(optimizer, params)), update


def make_batch(points, labels, mask=None):
    return {
        "image": jnp.asarray(points, jnp.float32),
        "label": jnp.asarray(labels, jnp.int32),
        "mask": jnp.ones(len(labels)) if mask is None else jnp.asarray(mask, jnp.float32),
    }


def mistakes_of(sums):
    accuracy = sums["accuracy"]
    return round(float(accuracy.count - accuracy.total))


def by_hand(points, labels, classes, rate=1.0, passes=1):
    """Rosenblatt's rule for two classes, Kesler's for more, in float64: weights and mistakes."""
    constant = np.concatenate([points, np.ones((len(points), 1))], axis=1).astype(np.float64)
    weights = np.zeros((constant.shape[1], 1 if classes == 2 else classes))
    mistakes = 0
    for x, label in list(zip(constant, labels, strict=True)) * passes:
        sums = x @ weights
        answer = int(sums[0] > 0) if classes == 2 else int(sums.argmax())
        mistakes += answer != label
        if classes == 2:
            weights[:, 0] += rate * (label - answer) * x
        elif answer != label:
            weights[:, label] += rate * x
            weights[:, answer] -= rate * x
    return weights, mistakes


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_each_example_in_turn_corrects_the_weights(classes):
    rng = np.random.default_rng(0)
    # Whole numbers, so that float32 is exact.
    points, labels = rng.integers(-4, 5, (60, 3)), rng.integers(0, classes, 60)
    _, state, update = start(classes, 3, rate=0.5)
    state, sums = update(state, make_batch(points, labels))
    weights, mistakes = by_hand(points, labels, classes, rate=0.5)
    np.testing.assert_array_equal(state.params["weights"], weights)
    assert mistakes_of(sums) == mistakes


@st.composite
def separable(draw):
    """Points that a plane through the origin of the extended inputs (x, 1) separates, and it."""
    seed, dimension = draw(st.integers(0, 10_000)), draw(st.integers(1, 5))
    margin = draw(st.floats(0.05, 0.5))
    rng = np.random.default_rng(seed)
    plane = rng.normal(size=dimension + 1)
    plane /= np.linalg.norm(plane)
    points = rng.uniform(-2, 2, (200, dimension)).astype(np.float32)
    distances = points @ plane[:-1] + plane[-1]
    kept = np.abs(distances) >= margin
    return points[kept], (distances[kept] > 0).astype(int), plane


@settings(max_examples=25, deadline=None)
@given(separable())
def test_separable_data_are_learned_within_novikoff_s_bound(data):
    points, labels, plane = data
    assume(len(points) > 0)
    extended = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    margin = np.abs(extended @ plane).min()
    radius = np.linalg.norm(extended, axis=1).max()
    bound = (radius / margin) ** 2  # Novikoff (1962).

    # Masked padding gives all sets one shape: the update is compiled once a dimension.
    padding = (0, 200 - len(points))
    batch = make_batch(
        np.pad(points, (padding, (0, 0))),
        np.pad(labels, padding),
        np.pad(np.ones(len(points)), padding),
    )
    _, state, update = start(2, points.shape[1])
    mistakes, in_last_pass = 0, -1
    while in_last_pass != 0:
        state, sums = update(state, batch)
        in_last_pass = mistakes_of(sums)
        mistakes += in_last_pass
        assert mistakes <= bound


def test_three_separable_classes_are_learned():
    rng = np.random.default_rng(0)
    centers = np.array([[0, 3], [3, -2], [-3, -2]])
    labels = rng.integers(0, 3, 90)
    batch = make_batch(centers[labels] + rng.uniform(-1, 1, (90, 2)), labels)
    task, state, update = start(3, 2)
    for _ in range(30):
        state, _ = update(state, batch)
    values = metrics.compute(task.evaluate({"params": state.params}, batch, jax.random.key(0)))
    assert values["accuracy"] == 1
    assert values["loss"] == 0


def test_exclusive_or_is_never_learned():
    # Minsky and Papert (1969): no plane separates it. The weights return to where they were
    # (their cycling theorem), so that no number of passes helps.
    points, labels = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    _, state, update = start(2, 2)
    seen = []
    for _ in range(50):
        state, sums = update(state, make_batch(points, labels))
        assert mistakes_of(sums) > 0
        seen.append(tuple(np.asarray(state.params["weights"]).ravel()))
    assert len(set(seen)) < 10


def test_and_and_or_are_learned():
    points = [[0, 0], [0, 1], [1, 0], [1, 1]]
    for labels in ([0, 0, 0, 1], [0, 1, 1, 1]):
        task, state, update = start(2, 2)
        batch = make_batch(points, labels)
        for _ in range(10):
            state, _ = update(state, batch)
        probabilities = task.predict({"params": state.params}, batch)
        np.testing.assert_array_equal(probabilities, np.eye(2)[labels])


@settings(max_examples=10, deadline=None)
@given(rate=st.sampled_from([0.125, 0.5, 2.0, 16.0]))
def test_the_rate_scales_the_weights_and_changes_no_answer(rate):
    rng = np.random.default_rng(1)
    batch = make_batch(rng.integers(-4, 5, (40, 3)), rng.integers(0, 3, 40))
    _, one, update_one = start(3, 3)
    _, other, update_other = start(3, 3, rate)
    one, sums_one = update_one(one, batch)
    other, sums_other = update_other(other, batch)
    np.testing.assert_array_equal(other.params["weights"], rate * one.params["weights"])
    assert mistakes_of(sums_one) == mistakes_of(sums_other)


def test_the_loss_is_how_far_the_wrong_answers_exceed_the_right_ones():
    task, state, _ = start(3, 1)
    params = {"weights": jnp.array([[1.0, 2.0, -1.0], [0.0, 0.5, 0.0]])}
    # Sums for x = 1: (1, 2.5, -1); for x = -1: (-1, -1.5, 1).
    batch = make_batch([[1.0], [1.0], [-1.0]], [1, 0, 1])
    values = metrics.compute(task.evaluate({"params": params}, batch, jax.random.key(0)))
    assert values["loss"] == pytest.approx((0 + 1.5 + 2.5) / 3)
    assert values["accuracy"] == pytest.approx(1 / 3)
    assert set(values) == {"loss", "accuracy"}
    assert state.params["weights"].shape == (2, 3)


def test_masked_examples_teach_nothing():
    batch = make_batch([[1, 2], [3, 4], [-1, 0]], [1, 0, 1], mask=[1, 0, 1])
    _, state, update = start(2, 2)
    masked, sums = update(state, batch)
    kept, _ = update(state, {name: array[jnp.array([0, 2])] for name, array in batch.items()})
    np.testing.assert_array_equal(masked.params["weights"], kept.params["weights"])
    assert float(sums["accuracy"].count) == 2


def test_only_one_device_is_supported():
    task, _, _ = start(2, 2)
    assert task.parallelisms == ("jit",)


@pytest.mark.parametrize("classes", [2, 3])
def test_sums_of_nan_are_wrong_and_counted(classes):
    task, state, _ = start(classes, 1)
    batch = make_batch([[np.nan], [np.nan], [1.0]], [0, 1, 0])
    values = metrics.compute(task.evaluate({"params": state.params}, batch, jax.random.key(0)))
    assert (values["accuracy"], values["nan_predictions"]) == (pytest.approx(1 / 3), 2)
    assert np.isnan(task.predict({"params": state.params}, batch)).any(1).tolist() == [1, 1, 0]


def test_a_masked_example_may_hold_anything():
    batch = make_batch([[1, 2], [np.nan, np.inf], [-1, 0]], [1, 0, 1], mask=[1, 0, 1])
    _, state, update = start(2, 2)
    masked, _ = update(state, batch)
    kept, _ = update(state, {name: array[jnp.array([0, 2])] for name, array in batch.items()})
    np.testing.assert_array_equal(masked.params["weights"], kept.params["weights"])


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"l1": 0.1}])
@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_penalties_leave_the_threshold_alone(name, options):
    task = tasks.create("perceptron", models.create("perceptron", num_classes=2))
    optimizer = builder.build(name, optax.constant_schedule(0.5), builder.Options(**options))
    params = {"weights": jnp.array([[1.0], [2.0], [-4.0]])}
    state = small.state(params, task.init_optimizer(optimizer, params))
    # Sums of -1 and -4: right answers for the class 0.
    batch = make_batch([[1.0, 1.0], [0.0, 0.0]], [0, 0])
    state, _ = jax.jit(lambda state: task.update(state, batch, jax.random.key(0), optimizer))(state)
    after = np.asarray(state.params["weights"])[:, 0]
    assert after[2] == -4
    assert (after[:2] < [1, 2]).all()
