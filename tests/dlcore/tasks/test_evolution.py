"""The evolution strategy against its algorithm in NumPy, on problems whose answers are known."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from dlcore import metrics, models, tasks
from dlcore.errors import UsageError
from dlcore.parallel import AXIS, psum
from dlcore.tasks.evolution import population_noise, utilities
from tests import small


class Thresholds(nn.Module):
    """Two layers of threshold units, whose derivative is 0 wherever there is one."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, x, train=False):
        fired = nn.Dense(4)(x.reshape(x.shape[0], -1)) > 0
        return (nn.Dense(self.num_classes)(fired.astype(jnp.float32)) > 0).astype(jnp.float32)


def make_batch(points, labels, mask=None):
    return {
        "image": jnp.asarray(points, jnp.float32),
        "label": jnp.asarray(labels, jnp.int32),
        "mask": jnp.ones(len(labels)) if mask is None else jnp.asarray(mask, jnp.float32),
    }


def start(task, batch, optimizer):
    params = small.init(task, batch)["params"]
    return small.state(params, task.init_optimizer(optimizer, params))


RNG = np.random.default_rng(0)
BATCH = make_batch(RNG.normal(size=(16, 3)), RNG.integers(0, 4, 16), mask=[1] * 13 + [0] * 3)


@functools.cache
def one_generation(fitness="cross_entropy", rate=1.0, layout="whole"):
    """A state of a softmax regression, and what a generation makes of it."""
    model = models.create("softmax_regression", num_classes=4)
    task = tasks.create("evolution", model, population_size=10, deviation=0.3, fitness=fitness)
    optimizer = optax.sgd(rate)
    state = start(task, BATCH, optimizer)
    state = state.replace(params=jax.tree.map(lambda leaf: leaf + 0.5, state.params))
    batch = BATCH

    def update(state, batch):
        new_state, sums = task.update(state, batch, jax.random.key(1), optimizer)
        return new_state, psum(sums)

    if layout == "kept":
        batch = {name: array[:13] for name, array in BATCH.items()}
    if layout == "split":
        mesh = Mesh(np.asarray(jax.devices()), (AXIS,))
        whole, split = PartitionSpec(), PartitionSpec(AXIS)
        update = jax.shard_map(
            update, mesh=mesh, in_specs=(whole, split), out_specs=whole, check_vma=False
        )
    return state, jax.jit(update)(state, batch)


def ranked_weights(costs):
    """Table 1 of Wierstra et al. (2014), by the rank of each cost."""
    n = len(costs)
    raw = [max(0.0, np.log(n / 2 + 1) - np.log(k)) for k in range(1, n + 1)]
    weights = np.empty(n)
    weights[np.argsort(costs, kind="stable")] = np.array(raw) / sum(raw) - 1 / n
    return weights


@pytest.mark.parametrize("fitness", ["cross_entropy", "errors"])
def test_a_generation_is_algorithm_6_of_wierstra_et_al(fitness):
    state, (new_state, sums) = one_generation(fitness)
    noise = population_noise(jax.random.key(1), state.params, 10)["logits"]
    layer = {name: np.float64(state.params["logits"][name]) for name in noise}
    images, labels = (np.asarray(BATCH[name])[:13] for name in ("image", "label"))
    losses, correct = [], []
    for k in range(10):
        kernel, bias = (
            layer[name] + 0.3 * np.float64(noise[name][k]) for name in ("kernel", "bias")
        )
        scores = images @ kernel + bias
        scores -= np.log(np.exp(scores).sum(1, keepdims=True))
        losses.append(-scores[np.arange(13), labels].sum())
        correct.append((scores.argmax(1) == labels).sum())
    weights = ranked_weights(losses if fitness == "cross_entropy" else 13 - np.array(correct))
    rate = (3 + np.log(16)) / (5 * np.sqrt(16))
    for name in noise:
        z = np.float64(noise[name])
        moved = layer[name] + 0.3 * np.tensordot(weights, z, 1)
        spread = 0.3 * np.exp(rate / 2 * np.tensordot(weights, z**2 - 1, 1))
        np.testing.assert_allclose(new_state.params["logits"][name], moved, rtol=1e-4, atol=1e-5)
        deviations = new_state.opt_state["deviations"]["logits"][name]
        np.testing.assert_allclose(deviations, spread, rtol=1e-4)
    values = metrics.compute(sums)
    assert values["loss"] == pytest.approx(np.mean(losses) / 13, rel=1e-5)
    assert values["accuracy"] == pytest.approx(np.mean(correct) / 13, rel=1e-5)


@settings(max_examples=20)
@given(st.integers(2, 300))
def test_utilities_fall_with_the_rank_and_have_no_sum(population):
    weights = utilities(population)
    np.testing.assert_allclose(weights, ranked_weights(range(population)), atol=1e-14)
    assert (np.diff(weights) <= 0).all()
    assert weights.sum() == pytest.approx(0, abs=1e-12)
    assert weights[0] > 0
    np.testing.assert_allclose(weights[-(-population // 2) :], -1 / population)


@pytest.mark.parametrize("layout", ["kept", "split"])
def test_neither_padding_nor_the_devices_change_a_generation(layout):
    _, expected = one_generation()
    _, other = one_generation(layout=layout)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), other, expected
    )


def test_the_optimizer_moves_the_parameters_and_leaves_the_deviations():
    state, (full, _) = one_generation()
    _, (half, _) = one_generation(rate=0.5)
    for name in ("kernel", "bias"):
        old, long, short = (own.params["logits"][name] for own in (state, full, half))
        np.testing.assert_allclose(short - old, (long - old) / 2, rtol=1e-4, atol=1e-6)
    jax.tree.map(
        np.testing.assert_array_equal, half.opt_state["deviations"], full.opt_state["deviations"]
    )


def test_threshold_units_without_a_gradient_learn_exclusive_or():
    batch = make_batch([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0])
    task = tasks.create("evolution", Thresholds(), deviation=1.0, fitness="errors")
    optimizer, key = optax.sgd(1.0), jax.random.key(2)
    state = start(task, batch, optimizer)

    def evolve(state, key):
        return task.update(state, batch, key, optimizer)[0], None

    @jax.jit
    def measure(state):
        """The gradient at the start, and the scores when sixty generations have gone by."""
        gradient = jax.grad(
            lambda params: task.evaluate({"params": params}, batch, key)["loss"].total
        )
        evolved, _ = jax.lax.scan(evolve, state, jax.random.split(key, 60))
        return gradient(state.params), task.evaluate({"params": evolved.params}, batch, key)

    gradient, sums = measure(state)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
    values = metrics.compute(sums)
    assert values["accuracy"] == 1


def test_the_best_class_is_predicted():
    model = models.create("softmax_regression", num_classes=2)
    params = {"logits": {"kernel": jnp.array([[1.0, 0.0]]), "bias": jnp.zeros(2)}}
    task = tasks.create("evolution", model)
    probability = task.predict({"params": params}, {"image": jnp.array([[2.0]])})
    np.testing.assert_allclose(probability, [[0.880797, 0.119203]], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population_size": 1}, "population_size=1: it must be at least 2"),
        ({"deviation": 0.0}, "deviation=0.0: it must be above 0"),
        ({"deviation": float("inf")}, "deviation=inf"),
        ({"fitness": "luck"}, "unknown fitness 'luck': it is cross_entropy or errors"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        tasks.create("evolution", models.create("softmax_regression"), **options)
