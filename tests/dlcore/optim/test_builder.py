"""Optimizers against float64 NumPy transcriptions of the published rules."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcore.errors import UsageError
from dlcore.optim import builder
from dlcore.optim.builder import Options
from dlcore.optim.noise import add_gradient_noise

STEPS, RATE, MOMENTUM, DECAY, EPSILON = 12, 0.05, 0.8, 0.7, 1e-6
BETA1, BETA2 = 0.85, 0.95
SEED, SHAPE = 7, (5, 1)

# A convex quadratic, badly conditioned: f(w) = (w - TARGET)' A (w - TARGET) / 2. Of rank 2, so that
# its parameters decay.
_generator = np.random.default_rng(0)
_basis, _ = np.linalg.qr(_generator.normal(size=(5, 5)))
CURVATURE = _basis @ np.diag([0.1, 0.5, 1.0, 3.0, 8.0]) @ _basis.T
TARGET = _generator.normal(size=SHAPE)
START = _generator.normal(size=SHAPE)


def gradient(weights):
    return CURVATURE @ (weights - TARGET)


def falling(step):
    return RATE / (1 + step)


# Each rule as its paper has it: a function of the start, the gradient `g(step, weights)`, the rate
# `r(step)` and the decoupled decay that yields the parameters of each step.


def sgd(w, g, r, decay):
    for t in range(STEPS):
        w = w - r(t) * (g(t, w) + decay * w)
        yield w


def momentum(w, g, r, decay):
    v = np.zeros_like(w)
    for t in range(STEPS):
        v = MOMENTUM * v + g(t, w)
        w = w - r(t) * (v + decay * w)
        yield w


def nesterov(w, g, r, decay):
    v = np.zeros_like(w)
    for t in range(STEPS):
        slope = g(t, w)
        v = MOMENTUM * v + slope
        w = w - r(t) * (slope + MOMENTUM * v + decay * w)
        yield w


def heavy_ball(w, g, r, decay):
    # Deck P: the last step is added, times the momentum.
    assert decay == 0
    last = np.zeros_like(w)
    for t in range(STEPS):
        new = w - r(t) * g(t, w) + MOMENTUM * last
        last = new - w
        w = new
        yield w


def nesterov_heavy_ball(w, g, r, decay):
    # Sutskever et al. (2013), equations 3 and 4, and deck D: what is yielded is the point ahead,
    # where the next gradient is taken.
    assert decay == 0
    v = np.zeros_like(w)
    for t in range(STEPS):
        v = r(t) * g(t, w - MOMENTUM * v) + MOMENTUM * v
        w = w - v
        yield w - MOMENTUM * v


def adagrad(w, g, r, decay):
    total = np.zeros_like(w)
    for t in range(STEPS):
        slope = g(t, w)
        total = total + slope**2
        w = w - r(t) * (slope / np.sqrt(total + EPSILON) + decay * w)
        yield w


def rmsprop(w, g, r, decay):
    mean = np.zeros_like(w)
    for t in range(STEPS):
        slope = g(t, w)
        mean = DECAY * mean + (1 - DECAY) * slope**2
        w = w - r(t) * (slope / np.sqrt(mean + EPSILON) + decay * w)
        yield w


def adam(w, g, r, decay):
    first, second = np.zeros_like(w), np.zeros_like(w)
    for t in range(STEPS):
        slope = g(t, w)
        first = BETA1 * first + (1 - BETA1) * slope
        second = BETA2 * second + (1 - BETA2) * slope**2
        corrected = first / (1 - BETA1 ** (t + 1)), second / (1 - BETA2 ** (t + 1))
        w = w - r(t) * (corrected[0] / (np.sqrt(corrected[1]) + EPSILON) + decay * w)
        yield w


PUBLISHED = {
    rule.__name__: rule
    for rule in (
        sgd,
        momentum,
        nesterov,
        adagrad,
        rmsprop,
        adam,
        heavy_ball,
        nesterov_heavy_ball,
    )
}


def make(optimizer, schedule=lambda step: RATE, **options):
    hyperparameters = Options(
        momentum=MOMENTUM,
        beta1=BETA1,
        beta2=BETA2,
        rms_decay=DECAY,
        epsilon=EPSILON,
        **options,
    )
    return builder.build(optimizer, schedule, hyperparameters, SEED)


def descend(transformation, params, gradients, steps=STEPS):
    """The parameters and the optimizer's state after each step, in float64."""

    def step(params, state):
        updates, state = transformation.update(gradients(params), state, params)
        return optax.apply_updates(params, updates), state

    state = transformation.init(params)
    for _ in range(steps):
        params, state = step(params, state)
        yield params, state


def path(transformation, steps=STEPS):
    return [np.asarray(w) for w, _ in descend(transformation, jnp.asarray(START), gradient, steps)]


def noise_of_each_step(deviation, decay):
    """What `add_gradient_noise`, which has a test of its own, adds to parameters like START."""
    transformation = add_gradient_noise(deviation, decay, SEED)
    zeros = jnp.zeros(SHAPE)
    state, samples = transformation.init(zeros), []
    for _ in range(STEPS):
        sample, state = transformation.update(zeros, state)
        samples.append(np.asarray(sample))
    return samples


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def test_every_optimizer_has_its_published_rule_here():
    assert {*PUBLISHED, "all_together"} == set(builder.NAMES)


@pytest.mark.parametrize("schedule", [lambda step: RATE, falling], ids=["constant", "falling"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_each_step_is_the_published_one_at_any_rate(name, schedule):
    reference = PUBLISHED[name](START, lambda t, w: gradient(w), schedule, 0)
    np.testing.assert_allclose(path(make(name, schedule)), list(reference), rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "decoupled"),
    [
        (name, decoupled)
        for name in PUBLISHED
        for decoupled in (False, True)
        if not (decoupled and name in builder.VELOCITY_OF_STEPS)
    ],
)
def test_clipping_noise_and_penalties_come_before_the_rule_in_this_order(name, decoupled):
    noise = noise_of_each_step(0.5, 0.3)
    clipped = []

    def total(t, w):
        slope = gradient(w)
        norm = np.linalg.norm(slope)
        clipped.append(norm > 2.0)
        slope = slope * min(1.0, 2.0 / norm) + noise[t]
        return slope + 0.3 * np.sign(w) + (0.2 * w if not decoupled else 0)

    optimizer = make(
        name,
        falling,
        clip_norm=2.0,
        gradient_noise=0.5,
        gradient_noise_decay=0.3,
        l1=0.3,
        weight_decay=0.2,
        decoupled_weight_decay=decoupled,
    )
    reference = PUBLISHED[name](START, total, falling, 0.2 if decoupled else 0)
    np.testing.assert_allclose(path(optimizer), list(reference), rtol=1e-10)
    assert clipped[0]


def test_all_together_is_the_one_equation_of_the_lecture():
    rho, kappa, clip = MOMENTUM, 0.2, 3.0
    noise = noise_of_each_step(0.5, 0.3)
    optimizer = make(
        "all_together",
        falling,
        clip_norm=clip,
        gradient_noise=0.5,
        gradient_noise_decay=0.3,
        weight_decay=kappa,
    )
    weights, velocity, total = START, np.zeros(SHAPE), np.zeros(SHAPE)
    moves = descend(optimizer, jnp.asarray(START), gradient)
    for t, (params, state) in enumerate(moves):
        ahead = weights - rho * velocity
        slope = gradient(ahead)
        slope = slope * min(1.0, clip / np.linalg.norm(slope))
        total = total + slope**2
        rate = falling(t) / np.sqrt(total + EPSILON)
        velocity = rate * (slope + kappa * ahead + noise[t]) + rho * velocity
        weights = weights - velocity
        # The parameters are the point ahead; the velocity in the state leads back to W.
        recovered = params - rho * optax.tree.get(state, "trace")
        np.testing.assert_allclose(recovered, weights, rtol=1e-10)
        np.testing.assert_allclose(params, weights - rho * velocity, rtol=1e-10)


def test_the_two_forms_of_a_velocity_differ_by_the_rates_alone():
    for gradients, steps in (("momentum", "heavy_ball"), ("nesterov", "nesterov_heavy_ball")):
        np.testing.assert_allclose(path(make(gradients)), path(make(steps)), rtol=1e-10)
    # Behind a drop to nothing, the velocity of steps finishes what it began.
    still = [
        np.ptp(path(make(name, lambda t: RATE * (t < 3)))[3:], axis=0).max()
        for name in ("momentum", "heavy_ball")
    ]
    assert still[0] == 0 < still[1]


def test_nesterovs_iterate_is_recovered_from_its_point_ahead():
    weights, velocity = START, np.zeros(SHAPE)
    both = [
        descend(make(name), jnp.asarray(START), gradient)
        for name in ("nesterov", "nesterov_heavy_ball")
    ]
    for (outside, outside_state), (inside, inside_state) in zip(*both, strict=True):
        velocity = RATE * gradient(weights - MOMENTUM * velocity) + MOMENTUM * velocity
        weights = weights - velocity
        trace = optax.tree.get(outside_state, "trace")
        np.testing.assert_allclose(outside + MOMENTUM * RATE * trace, weights, rtol=1e-10)
        trace = optax.tree.get(inside_state, "trace")
        np.testing.assert_allclose(inside - MOMENTUM * trace, weights, rtol=1e-10)


@pytest.mark.parametrize("name", builder.NAMES)
def test_every_optimizer_approaches_the_minimum(name):
    weights = path(make(name), steps=150)[-1]
    loss = [((w - TARGET).T @ gradient(w)).item() for w in (START, weights)]
    assert loss[1] < 0.2 * loss[0]


PARAMS = {
    "Dense_0": {"kernel": np.full((3, 2), 2.0), "bias": np.full(2, 2.0)},
    "Conv_0": {"kernel": np.full((1, 1, 2, 2), 2.0)},
    "ConvLocal_0": {"kernel": np.full((3, 1, 2), 2.0), "bias": np.full((3, 2), 2.0)},
    "BatchNorm_0": {"scale": np.full(2, 2.0), "bias": np.full(2, 2.0)},
    "temperature": np.asarray(2.0),
}
DECAYED = {
    "Dense_0": {"kernel": True, "bias": False},
    "Conv_0": {"kernel": True},
    "ConvLocal_0": {"kernel": True, "bias": False},
    "BatchNorm_0": {"scale": False, "bias": False},
    "temperature": False,
}


@pytest.mark.parametrize(("penalty", "shrinkage"), [("weight_decay", 2.0), ("l1", 1.0)])
def test_penalties_spare_biases_and_normalization(penalty, shrinkage):
    no_gradient = jax.tree.map(jnp.zeros_like, PARAMS)
    ((after, _),) = descend(make("sgd", **{penalty: 0.1}), PARAMS, lambda _: no_gradient, 1)
    expected = jax.tree.map(
        lambda value, decays: value - RATE * 0.1 * shrinkage * decays, PARAMS, DECAYED
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), after, expected)
    assert builder.decay_mask(PARAMS) == DECAYED


def first_move(optimizer, weight, slope, **options):
    """What one step adds to a weight (of rank 2, so that it decays)."""
    params = {"kernel": np.asarray([[weight]])}
    slopes = {"kernel": np.asarray([[slope]])}
    ((after, _),) = descend(make(optimizer, **options), params, lambda _: slopes, 1)
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
    ((after, _),) = descend(make("sgd", clip_norm=norm), params, lambda _: gradients, 1)
    assert float(after["a"][0]) == pytest.approx(-RATE * 3.0 * scale)
    assert float(after["b"][0]) == pytest.approx(RATE * 4.0 * scale)


def test_noise_is_drawn_anew_for_every_parameter_step_and_seed():
    zeros = {"a": jnp.zeros(1000), "b": jnp.zeros(1000)}
    moves = []
    for seed in (1, 2):
        optimizer = builder.build("sgd", lambda _: 1.0, Options(gradient_noise=1.0), seed)
        (first, _), (second, _) = descend(optimizer, zeros, lambda _: zeros, 2)
        moves += [first["a"], first["b"], second["a"] - first["a"]]
    correlation = np.corrcoef(moves) - np.eye(6)
    assert abs(correlation).max() < 0.13


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"momentum": 1.0}, "momentum=1.0.*below 1"),
        ({"momentum": math.nan}, "momentum=nan"),
        ({"beta1": -0.1}, "beta1=-0.1"),
        ({"beta2": 1.5}, "beta2=1.5"),
        ({"rms_decay": 1.0}, "rms_decay=1.0"),
        ({"epsilon": 0.0}, "epsilon=0.0.*above 0"),
        ({"epsilon": 1e-46}, "epsilon=1e-46.*above 0, as a float32"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001.*at least 0"),
        ({"l1": math.nan}, "l1=nan.*at least 0"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0.*at least 0"),
        ({"clip_average_factor": -1.0}, "clip_average_factor=-1.0.*at least 0"),
        (
            {"clip_norm": 1.0, "clip_average_factor": 2.0},
            "clip_norm=1.0 and .*factor=2.0 .* one of them",
        ),
        ({"gradient_noise": -1.0}, "gradient_noise=-1.0"),
        ({"gradient_noise_decay": math.inf}, "gradient_noise_decay=inf"),
    ],
)
def test_bad_input_is_refused_by_name(options, named):
    with pytest.raises(UsageError, match=named):
        Options(**options)


def test_a_class_of_fields_that_inherits_the_options_may_serve_as_them():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Recipe(Options):
        name: str
        weight_decay: float = 0.1

        def __post_init__(self):
            super().__post_init__()

    groups = "kernel:weight_decay=0.3"
    optimizer = builder.build("sgd", lambda step: 1.0, Recipe(name="any"), groups=groups)
    params = {"kernel": np.full((1, 1), 10.0), "other": np.full((1, 1), 10.0)}
    ((after, _),) = descend(optimizer, params, lambda _: jax.tree.map(np.zeros_like, params), 1)
    assert [float(after[name][0, 0]) for name in ("kernel", "other")] == pytest.approx([7, 9])
    with pytest.raises(UsageError, match="^momentum=1.5: it must be at least 0 and below 1$"):
        Recipe(name="any", momentum=1.5)


def test_an_unknown_optimizer_is_refused_with_the_names_of_all():
    with pytest.raises(UsageError, match="optimizer=adamw: .*sgd, momentum, .*adam"):
        builder.build("adamw", lambda step: RATE)


@pytest.mark.parametrize("name", builder.VELOCITY_OF_STEPS)
def test_decoupled_decay_is_refused_where_it_would_enter_the_velocity(name):
    with pytest.raises(
        UsageError, match=f"decoupled_weight_decay=true .* velocity of {name}: .*false"
    ):
        make(name, weight_decay=0.1, decoupled_weight_decay=True)
