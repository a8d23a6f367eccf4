"""A state that goes back to an earlier one, and goes on from there, on any number of devices."""

import jax
import numpy as np
import optax
import pytest

from dlcore import models, optim, parallel, tasks
from dlcore.optim import rate
from dlcore.train import program

RATE, MOMENTUM, EXAMPLES = 0.5, 0.5, 16


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(EXAMPLES, 3)).astype(np.float32),
        "label": rng.integers(2, size=EXAMPLES).astype(np.int32),
        "mask": np.ones(EXAMPLES, np.float32),
    }


def trained(layout, batch):
    """The state after four steps, and two more from that of step 2 at a tenth of the rate."""
    schedule = optax.constant_schedule(RATE)
    made = program.build(
        tasks.create("classification", models.create("softmax_regression", num_classes=2)),
        optim.builder.build("momentum", schedule, optim.builder.Options(momentum=MOMENTUM)),
        schedule,
        lambda batch, key, train: batch,
        batch,
        parallel.make(layout),
        seed=0,
        log_every=100,
    )
    placed = made.parallelism.place_batch(batch)
    state = made.parallelism.place_state(made.initialize())
    for step in range(1, 5):
        state, _ = made.step(state, placed)
        if step == 2:
            kept = jax.device_get(made.parallelism.canonical_state(state))
    # As a checkpoint is restored.
    shardings = jax.tree.map(lambda array: array.sharding, made.abstract_state)
    earlier = made.parallelism.place_state(jax.device_put(kept, shardings))
    state = state.restarted_from(earlier, {})
    state = state.replace(opt_state=rate.rescale(state.opt_state, 0.1))
    for _ in range(2):
        state, _ = made.step(state, placed)
    if layout != "pmap":
        # Whatever was replaced is laid out as the compiled step takes it.
        assert made.step._cache_size() == 1
    return jax.device_get(made.parallelism.canonical_state(state))


def by_hand(batch):
    """Kernel and bias after momentum's steps in float64: two, and two at a tenth of the rate."""
    inputs = np.concatenate([batch["image"], np.ones((EXAMPLES, 1))], axis=1, dtype=np.float64)
    weights = velocity = np.zeros((4, 2))
    for learning_rate in (RATE, RATE, RATE / 10, RATE / 10):
        scores = np.exp(inputs @ weights)
        errors = scores / scores.sum(1, keepdims=True) - np.eye(2)[batch["label"]]
        velocity = MOMENTUM * velocity + inputs.T @ errors / EXAMPLES
        weights = weights - learning_rate * velocity
    return weights


@pytest.mark.parametrize("layout", parallel.NAMES)
def test_it_goes_on_from_the_earlier_parameters_and_velocity_at_the_lowered_rate(layout, batch):
    state = trained(layout, batch)
    (layer,) = state.params.values()
    weights = np.concatenate([layer["kernel"], layer["bias"][None]])
    np.testing.assert_allclose(weights, by_hand(batch), rtol=1e-5, atol=1e-6)
    # The place in the data, and the sums for the next record, are of all six steps.
    assert state.step == 6
    assert state.metrics["learning_rate"].count == 6
    assert state.metrics["learning_rate"].total == pytest.approx(4 * RATE + 2 * RATE / 10)


def test_what_examples_carry_from_batch_to_batch_is_not_taken_back():
    schedule = optax.constant_schedule(RATE)
    optimizer = optim.builder.build("sgd", schedule)
    params = {"kernel": np.zeros((2, 2), np.float32)}

    def state(step, carry):
        return tasks.TrainState(
            step=step,
            params=params,
            model_state={"carry": carry, "batch_stats": {"mean": step}},
            opt_state=optimizer.init(params),
            rng=np.zeros(2, np.uint32),
            average=None,
            metrics={},
        )

    mixed = state(5, "now").restarted_from(state(2, "then"), {"carry": "examples"})
    assert mixed.model_state == {"carry": "now", "batch_stats": {"mean": 2}}
