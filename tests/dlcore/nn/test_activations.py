"""Activation functions against the formulas of the lectures, and derivatives against `jax.grad`."""

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings

from dlcore.errors import UsageError
from dlcore.nn.activations import (
    NAMES,
    activation,
    derivative,
    hard_threshold,
    heaviside,
    maxout,
    scaled_tanh,
    sigmoid,
)

# As the decks print them, in float64.
FORMULAS = {
    "linear": lambda x: x,
    "heaviside": lambda x: np.where(x > 0, 1, 0),
    "heaviside:4": lambda x: np.where(x > 0, 1, 0),
    "hard_threshold": lambda x: np.where(x >= 0, 1, 0),
    "hard_threshold:-0.25": lambda x: np.where(x >= -0.25, 1, 0),
    "sign": np.sign,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sigmoid:2.5": lambda x: 1 / (1 + np.exp(-2.5 * x)),
    "tanh": lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)),
    "scaled_tanh": lambda x: 1.7159 * np.tanh(2 * x / 3),
    "relu": lambda x: np.maximum(0, x),
    "leaky_relu": lambda x: np.maximum(0.1 * x, x),
    "leaky_relu:0.3": lambda x: np.maximum(0.3 * x, x),
    "elu": lambda x: np.where(x >= 0, x, np.exp(x) - 1),
    "elu:0.5": lambda x: np.where(x >= 0, x, 0.5 * (np.exp(x) - 1)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "maxout": lambda x: np.maximum(x[..., 0::2], x[..., 1::2]),
    "maxout:3": lambda x: np.maximum(np.maximum(x[..., 0::3], x[..., 1::3]), x[..., 2::3]),
    "softmax": lambda x: scipy.special.softmax(x, axis=-1),
}
ELEMENTWISE = [name for name in FORMULAS if name.split(":")[0] not in ("maxout", "softmax")]
# Twelve numbers a row, none of them on a kink.
POINTS = np.linspace(-6, 6, 48).reshape(4, 12).astype(np.float32)


def test_every_activation_is_held_to_a_formula():
    assert {name.split(":")[0] for name in FORMULAS} == set(NAMES)


@pytest.mark.parametrize("name", FORMULAS)
def test_an_activation_is_the_formula_of_the_lectures(name):
    values = activation(name)(jnp.asarray(POINTS))
    np.testing.assert_allclose(values, FORMULAS[name](np.float64(POINTS)), rtol=2e-6, atol=1e-7)


@pytest.fixture(scope="module")
def gradients():
    """The derivatives of the elementwise functions by `jax.grad`, of one compilation."""

    @jax.jit
    def all_gradients(x):
        return {name: jax.vmap(jax.grad(activation(name)))(x) for name in ELEMENTWISE}

    return all_gradients(jnp.asarray(POINTS.ravel()))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_derivative_is_that_of_jax_grad(name, gradients):
    closed = derivative(name)(jnp.asarray(POINTS.ravel()))
    np.testing.assert_allclose(closed, gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pieces", [2, 3])
def test_the_derivative_of_maxout_is_one_at_the_piece_that_wins(pieces):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 12)), jnp.float32)
    by_jax = jax.grad(lambda x: activation(f"maxout:{pieces}")(x).sum())(x)
    np.testing.assert_array_equal(derivative(f"maxout:{pieces}")(x), by_jax)


def test_the_derivative_of_softmax_is_its_jacobian():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    by_jax = jax.vmap(jax.jacobian(activation("softmax")))(x)
    np.testing.assert_allclose(derivative("softmax")(x), by_jax, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("sigmoid", lambda x: np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2),
        ("tanh", lambda x: np.cosh(x) ** -2),
        ("scaled_tanh", lambda x: 1.7159 * 2 / 3 * np.cosh(x * 2 / 3) ** -2),
    ],
)
def test_a_saturated_unit_s_derivative_keeps_its_digits_where_its_value_is_flat(name, formula):
    x = np.linspace(-40, 40, 41)
    np.testing.assert_allclose(derivative(name)(jnp.float32(x)), formula(x), rtol=2e-5)
    # A value of 8 bits rounds to 1 from 3 or 6 on.
    x = np.linspace(-8, 8, 33)
    half = derivative(name)(jnp.asarray(x, jnp.bfloat16)).astype(jnp.float32)
    np.testing.assert_allclose(half, formula(x), rtol=0.05)


def test_the_derivative_of_elu_is_finite_far_from_zero():
    slopes = derivative("elu")(jnp.array([-1e3, 1e3]))
    np.testing.assert_array_equal(slopes, [0, 1])


def test_at_zero_one_threshold_is_silent_and_the_other_fires():
    # P prints a > 0, L prints x >= beta.
    zero = jnp.zeros(1)
    assert heaviside(zero) == 0
    assert hard_threshold(zero) == 1
    assert hard_threshold(jnp.array([0.7]), 0.7) == 1


@given(
    # XLA on a CPU takes subnormal numbers for zero.
    x=npst.arrays(np.float32, 16, elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)),
    slope=st.floats(0.1, 100),
)
@settings(max_examples=25)
def test_a_surrogate_gradient_changes_no_value(x, slope):
    np.testing.assert_array_equal(heaviside(jnp.asarray(x), slope), np.where(x > 0, 1, 0))


def test_the_surrogate_gradient_is_that_of_the_sigmoid_and_without_one_there_is_none():
    x = jnp.linspace(-2, 2, 21)
    surrogate = jax.vmap(jax.grad(lambda x: heaviside(x, 3.0)))(x)
    np.testing.assert_allclose(surrogate, 3 * jax.nn.sigmoid(3 * x) * jax.nn.sigmoid(-3 * x), 1e-4)
    assert not np.any(jax.vmap(jax.grad(heaviside))(x))


def test_a_steep_sigmoid_is_a_threshold():
    x = jnp.array([-1, -0.1, 0.1, 1])
    np.testing.assert_allclose(sigmoid(x, 1e3), heaviside(x), atol=1e-6)


def test_maxout_takes_only_whole_groups():
    with pytest.raises(UsageError, match="maxout of 3 pieces takes a multiple of 3 units, not 10"):
        maxout(jnp.zeros((2, 10)), 3)


def test_scaled_tanh_passes_through_plus_and_minus_one():
    # LeCun et al. (1998), appendix A: f(1) = 1 and f(-1) = -1 with these constants.
    np.testing.assert_allclose(scaled_tanh(jnp.array([-1.0, 0.0, 1.0])), [-1, 0, 1], atol=1e-5)


def test_scaled_tanh_bends_most_at_one():
    # The same appendix: the absolute value of the second derivative is largest at +1 and -1.
    x = jnp.linspace(0, 3, 3001)
    bend = jax.vmap(jax.grad(jax.grad(scaled_tanh)))(x)
    assert float(x[jnp.abs(bend).argmax()]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("swoosh", "unknown activation 'swoosh': it is one of linear, heaviside"),
        ("tanh:2", "activation 'tanh:2': tanh takes no number"),
        ("sigmoid:", "'sigmoid:': the slope of sigmoid is a number above 0$"),
        ("sigmoid:steep", "the slope of sigmoid is a number above 0$"),
        ("sigmoid:0", "the slope of sigmoid is a number above 0$"),
        ("heaviside:-1", "the surrogate slope of heaviside is a number above 0$"),
        ("hard_threshold:nan", "the beta of hard_threshold is a number$"),
        ("leaky_relu:1", "the leak of leaky_relu is a number above 0 and below 1$"),
        ("elu:inf", "the alpha of elu is a number above 0$"),
        ("maxout:1", "the number of pieces of maxout is a whole number above 1$"),
        ("maxout:2.5", "the number of pieces of maxout is a whole number above 1$"),
    ],
)
def test_a_bad_name_is_refused(name, complaint):
    for look_up in (activation, derivative):
        with pytest.raises(UsageError, match=complaint):
            look_up(name)


def test_on_a_kink_the_derivative_is_that_of_jax_grad_and_the_slope_to_the_left():
    for name in ELEMENTWISE:
        closed = derivative(name)(jnp.zeros(1))
        np.testing.assert_allclose(closed, jax.grad(activation(name))(0.0), rtol=1e-6, err_msg=name)
    slopes = {"relu": 0, "leaky_relu": 0.1, "leaky_relu:0.3": 0.3, "elu:0.5": 0.5}
    for name, slope in slopes.items():
        np.testing.assert_allclose(derivative(name)(jnp.zeros(1)), slope, rtol=1e-6)


@pytest.mark.parametrize("pieces", [2, 3])
def test_pieces_of_maxout_that_tie_share_the_derivative_as_in_jax(pieces):
    x = jnp.array([1.0, 1, 0, 2, 2, 2, 0, 3, 3, 0, -1, -1])
    by_jax = jax.grad(lambda x: activation(f"maxout:{pieces}")(x).sum())(x)
    np.testing.assert_allclose(derivative(f"maxout:{pieces}")(x), by_jax, rtol=1e-6)
    expected = [1 / 2, 1 / 2, 0, 1 / 3, 1 / 3, 1 / 3, 0, 1 / 2, 1 / 2, 1, 0, 0]
    if pieces == 3:
        np.testing.assert_allclose(by_jax, expected, rtol=1e-6)
