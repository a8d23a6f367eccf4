"""Optimizers against float64 NumPy transcriptions of the published rules."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcore.errors import UsageError
from dlcore.optim import builder

STEPS, RATE, MOMENTUM, DECAY, EPSILON = 12, 0.05, 0.8, 0.7, 1e-6
BETA1, BETA2 = 0.85, 0.95

# A convex quadratic, badly conditioned: f(w) = (w - TARGET)' A (w - TARGET) / 2.
_generator = np.random.default_rng(0)
_basis, _ = np.linalg.qr(_generator.normal(size=(5, 5)))
CURVATURE = _basis @ np.diag([0.1, 0.5, 1.0, 3.0, 8.0]) @ _basis.T
TARGET = _generator.normal(size=5)
START = _generator.normal(size=5)


def gradient(weights):
    return CURVATURE @ (weights - TARGET)


def sgd(weights, learning_rate):
    while True:
        weights = weights - learning_rate() * gradient(weights)
        yield weights


def momentum(weights, learning_rate):
    velocity = np.zeros_like(weights)
    while True:
        velocity = MOMENTUM * velocity + gradient(weights)
        weights = weights - learning_rate() * velocity
        yield weights


def nesterov(weights, learning_rate):
    # As published: the gradient at the look-ahead point, which is what Optax keeps as parameters.
    velocity = np.zeros_like(weights)
    while True:
        rate = learning_rate()
        velocity = MOMENTUM * velocity - rate * gradient(weights + MOMENTUM * velocity)
        weights = weights + velocity
        yield weights + MOMENTUM * velocity


def adagrad(weights, learning_rate):
    total = np.zeros_like(weights)
    while True:
        total = total + gradient(weights) ** 2
        weights = weights - learning_rate() * gradient(weights) / np.sqrt(total + EPSILON)
        yield weights


def rmsprop(weights, learning_rate):
    mean = np.zeros_like(weights)
    while True:
        mean = DECAY * mean + (1 - DECAY) * gradient(weights) ** 2
        weights = weights - learning_rate() * gradient(weights) / np.sqrt(mean + EPSILON)
        yield weights


def adam(weights, learning_rate):
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    step = 0
    while True:
        step += 1
        first = BETA1 * first + (1 - BETA1) * gradient(weights)
        second = BETA2 * second + (1 - BETA2) * gradient(weights) ** 2
        corrected = first / (1 - BETA1**step), second / (1 - BETA2**step)
        weights = weights - learning_rate() * corrected[0] / (np.sqrt(corrected[1]) + EPSILON)
        yield weights


PUBLISHED = {rule.__name__: rule for rule in (sgd, momentum, nesterov, adagrad, rmsprop, adam)}


def make(optimizer, schedule=lambda step: RATE, **options):
    return builder.build(
        optimizer,
        schedule,
        momentum=MOMENTUM,
        beta1=BETA1,
        beta2=BETA2,
        rms_decay=DECAY,
        epsilon=EPSILON,
        **options,
    )


def descend(transformation, params, gradients, steps=STEPS):
    """The parameters after each step, in float64."""

    @jax.jit
    def step(params, state):
        updates, state = transformation.update(gradients(params), state, params)
        return optax.apply_updates(params, updates), state

    state = transformation.init(params)
    for _ in range(steps):
        params, state = step(params, state)
        yield params


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def test_every_optimizer_has_its_published_rule_here():
    assert set(PUBLISHED) == set(builder.NAMES)


@pytest.mark.parametrize("name", builder.NAMES)
def test_each_step_is_the_published_one(name):
    reference = PUBLISHED[name](START, lambda: RATE)
    for weights in descend(make(name), jnp.asarray(START), gradient):
        np.testing.assert_allclose(weights, next(reference), rtol=1e-10)


# Nesterov's look-ahead scales with the last step's rate as published, in Optax with the current.
@pytest.mark.parametrize("name", sorted(set(builder.NAMES) - {"nesterov"}))
def test_the_schedule_sets_the_rate_of_each_step(name):
    rates = iter(RATE / (1 + step) for step in range(STEPS))
    reference = PUBLISHED[name](START, lambda: next(rates))
    decaying = make(name, lambda step: RATE / (1 + step))
    for weights in descend(decaying, jnp.asarray(START), gradient):
        np.testing.assert_allclose(weights, next(reference), rtol=1e-10)


@pytest.mark.parametrize("name", builder.NAMES)
def test_every_optimizer_approaches_the_minimum(name):
    *_, weights = descend(make(name), jnp.asarray(START), gradient, steps=150)
    loss = [(w - TARGET) @ gradient(w) / 2 for w in (START, np.asarray(weights))]
    assert loss[1] < 0.2 * loss[0]


PARAMS = {
    "Dense_0": {"kernel": np.full((3, 2), 2.0), "bias": np.full(2, 2.0)},
    "Conv_0": {"kernel": np.full((1, 1, 2, 2), 2.0)},
    "BatchNorm_0": {"scale": np.full(2, 2.0), "bias": np.full(2, 2.0)},
    "temperature": np.asarray(2.0),
}
DECAYED = {
    "Dense_0": {"kernel": True, "bias": False},
    "Conv_0": {"kernel": True},
    "BatchNorm_0": {"scale": False, "bias": False},
    "temperature": False,
}


def test_weight_decay_spares_biases_and_normalisation():
    (after,) = descend(
        make("sgd", weight_decay=0.1), PARAMS, lambda p: jax.tree.map(jnp.zeros_like, p), 1
    )
    expected = jax.tree.map(
        lambda value, decays: value * (1 - RATE * 0.1 * decays), PARAMS, DECAYED
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), after, expected)
    assert builder.decay_mask(PARAMS) == DECAYED


def first_move(optimizer, weight, slope, **options):
    """What one step adds to a weight (of rank 2, so that it decays)."""
    params = {"kernel": np.asarray([[weight]])}
    slopes = {"kernel": np.asarray([[slope]])}
    (after,) = descend(make(optimizer, **options), params, lambda _: slopes, 1)
    return float(after["kernel"][0, 0]) - weight


def test_coupled_decay_goes_through_adam_and_decoupled_decay_around_it():
    # Adam's first step is the gradient's sign: all that coupled decay can do there is to turn it.
    coupled = first_move("adam", 10.0, -0.5, weight_decay=0.1)
    assert coupled == pytest.approx(-RATE, rel=1e-5)
    decoupled = first_move("adam", 10.0, -0.5, weight_decay=0.1, decoupled_weight_decay=True)
    assert decoupled == pytest.approx(RATE * (1 - 0.1 * 10.0), abs=1e-6)


def test_coupled_and_decoupled_decay_agree_for_plain_descent():
    moves = [
        first_move("sgd", 10.0, -0.5, weight_decay=0.1, decoupled_weight_decay=decoupled)
        for decoupled in (False, True)
    ]
    assert moves[0] == pytest.approx(moves[1]) == pytest.approx(RATE * (0.5 - 0.1 * 10.0))


@pytest.mark.parametrize(("norm", "scale"), [(2.5, 0.5), (5.0, 1.0), (10.0, 1.0)])
def test_clipping_scales_the_gradient_over_all_parameters_to_the_norm(norm, scale):
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    gradients = {"a": np.asarray([3.0]), "b": np.asarray([-4.0])}
    (after,) = descend(make("sgd", clip_norm=norm), params, lambda _: gradients, 1)
    assert float(after["a"][0]) == pytest.approx(-RATE * 3.0 * scale)
    assert float(after["b"][0]) == pytest.approx(RATE * 4.0 * scale)


def test_clipping_leaves_noise_and_decay_alone():
    move = first_move("sgd", 10.0, 50.0, clip_norm=1.0, weight_decay=0.5)
    assert move == pytest.approx(-RATE * (1.0 + 0.5 * 10.0))


def test_noise_comes_behind_clipping_and_follows_its_own_seed():
    weights = jnp.zeros(1000)
    moves = [
        next(
            descend(make("sgd", gradient_noise=1.0, seed=seed, clip_norm=1e-9), weights, gradients)
        )
        for seed, gradients in ((1, jnp.ones_like), (1, jnp.zeros_like), (2, jnp.zeros_like))
    ]
    assert jnp.std(moves[0]) == pytest.approx(RATE, rel=0.1)
    np.testing.assert_allclose(moves[0], moves[1], atol=1e-9)
    assert abs(np.corrcoef(moves[1], moves[2])[0, 1]) < 0.13


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"optimizer": "adamw"}, "unknown optimizer 'adamw'.*sgd, momentum, .*adam"),
        ({"momentum": 1.0}, "momentum is 1.0.*below 1"),
        ({"momentum": math.nan}, "momentum is nan"),
        ({"beta1": -0.1}, "beta1 is -0.1"),
        ({"beta2": 1.5}, "beta2 is 1.5"),
        ({"rms_decay": 1.0}, "rms_decay is 1.0"),
        ({"epsilon": 0.0}, "epsilon is 0.0.*above 0"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001.*at least 0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0.*above 0"),
        ({"gradient_noise": -1.0}, "gradient_noise is -1.0"),
        ({"gradient_noise_decay": math.inf}, "gradient_noise_decay is inf"),
    ],
)
def test_bad_input_is_refused_by_name(options, named):
    with pytest.raises(UsageError, match=named):
        builder.build(**{"optimizer": "sgd", "schedule": lambda step: RATE, **options})
