"""Dual numbers against SymPy's derivatives, `jax.grad` and the algebra that defines them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore.autodiff.dual import DERIVATIVES, Dual, gradient, variables
from dlcore.errors import UsageError

X, Y = sympy.symbols("x y", real=True)
# For each function SymPy's own, and arguments inside its domain, away from kinks.
BOTH, POSITIVE, UNIT, ABOVE_ONE = (-1.7, 0.3, 2.4), (0.2, 1.0, 3.1), (-0.8, 0.1, 0.6), (1.3, 4.0)
FUNCTIONS = {
    np.positive: (X, BOTH),
    np.negative: (-X, BOTH),
    np.absolute: (sympy.Abs(X), BOTH),
    np.reciprocal: (1 / X, BOTH),
    np.square: (X**2, BOTH),
    np.sqrt: (sympy.sqrt(X), POSITIVE),
    np.exp: (sympy.exp(X), BOTH),
    np.expm1: (sympy.exp(X) - 1, BOTH),
    np.log: (sympy.log(X), POSITIVE),
    np.log1p: (sympy.log(1 + X), POSITIVE),
    np.sin: (sympy.sin(X), BOTH),
    np.cos: (sympy.cos(X), BOTH),
    np.tan: (sympy.tan(X), BOTH),
    np.arcsin: (sympy.asin(X), UNIT),
    np.arccos: (sympy.acos(X), UNIT),
    np.arctan: (sympy.atan(X), BOTH),
    np.sinh: (sympy.sinh(X), BOTH),
    np.cosh: (sympy.cosh(X), BOTH),
    np.tanh: (sympy.tanh(X), BOTH),
    np.arcsinh: (sympy.asinh(X), BOTH),
    np.arccosh: (sympy.acosh(X), ABOVE_ONE),
    np.arctanh: (sympy.atanh(X), UNIT),
    np.add: (X + Y, BOTH, BOTH),
    np.subtract: (X - Y, BOTH, BOTH),
    np.multiply: (X * Y, BOTH, BOTH),
    np.divide: (X / Y, BOTH, BOTH),
    np.power: (X**Y, POSITIVE, BOTH),
    np.maximum: (sympy.Max(X, Y), BOTH, UNIT),
    np.minimum: (sympy.Min(X, Y), BOTH, UNIT),
    np.logaddexp: (sympy.log(sympy.exp(X) + sympy.exp(Y)), BOTH, BOTH),
}


def test_the_jets_of_the_lecture():
    # Krawiec's program: x = 2, y = 3, z = x y; then z z and y z.
    x, y = variables([2.0, 3.0])
    z = x * y
    for number, value, partials in [
        (x, 2, [1, 0]),
        (y, 3, [0, 1]),
        (z, 6, [3, 2]),
        (z * z, 36, [36, 24]),
        (y * z, 18, [9, 12]),
    ]:
        assert number.value == value
        np.testing.assert_array_equal(number.partials, partials)


def test_an_infinitesimal_s_square_is_nothing():
    infinitesimal = Dual(0.0, [1.0])
    square = infinitesimal * infinitesimal
    assert square.value == 0
    assert square.partials == 0


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_function_has_the_derivatives_that_sympy_finds(function):
    expression, *domains = FUNCTIONS[function]
    symbols = (X, Y)[: len(domains)]
    for point in np.stack(np.meshgrid(*domains), -1).reshape(-1, len(domains)):
        places = dict(zip(symbols, map(sympy.Float, point), strict=True))
        result = function(*variables(point))
        expected = [expression, *(sympy.diff(expression, symbol) for symbol in symbols)]
        np.testing.assert_allclose(
            [result.value, *result.partials],
            [float(derivative.subs(places)) for derivative in expected],
            rtol=4e-15,
            atol=1e-15,
        )


def test_no_function_is_left_out_of_the_comparison():
    assert set(FUNCTIONS) == set(DERIVATIVES)


@settings(max_examples=50)
@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=6),
    st.floats(-2, 2),
    st.floats(-2, 2),
)
def test_a_polynomial_of_a_dual_number_is_its_value_and_its_derivative(coefficients, a, b):
    # P(a + b e) = P(a) + b P'(a) e: the expansion of the lecture, by Horner's rule.
    number = Dual(a, [b])
    result = Dual(0.0, [0.0])
    for coefficient in reversed(coefficients):
        result = result * number + coefficient
    polynomial = np.polynomial.Polynomial(coefficients)
    assert result.value == pytest.approx(polynomial(a), rel=1e-12, abs=1e-12)
    assert result.partials[0] == pytest.approx(b * polynomial.deriv()(a), rel=1e-12, abs=1e-12)


def composed(x, numpy):
    """A function of a matrix that broadcasts, reduces, slices and uses a constant."""
    scaled = x / (2.0 + numpy.exp(-x)) - x[0] * 3
    wave = numpy.sin(scaled * x.reshape(-1)[:3].sum()) ** 3
    return (2**wave * x).sum(-1)[1] + (wave * x).sum(0).sum() - (1 - scaled[1:] * x[1:]).sum()


composed_gradient = jax.jit(jax.grad(lambda x: composed(x, jnp)))


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_a_composed_function_has_the_gradient_that_jax_finds(seed):
    point = np.random.default_rng(seed).normal(size=(2, 3))
    with jax.enable_x64(True):
        expected = np.asarray(composed_gradient(point))
    assert expected.dtype == np.float64
    np.testing.assert_allclose(
        gradient(lambda x: composed(x, np), point), expected, rtol=1e-12, atol=1e-12
    )


def test_a_vector_valued_function_carries_its_jacobian():
    x = variables([1.0, 2.0, 3.0])
    image = x * x[::-1]
    np.testing.assert_array_equal(image.value, [3, 4, 3])
    np.testing.assert_array_equal(image.partials, [[3, 0, 1], [0, 4, 0], [3, 0, 1]])


def test_plain_numbers_may_stand_on_either_side():
    x = variables(4.0)
    for number, value, derivative in [
        (2 - x, -2, -1),
        (x - 2, 2, 1),
        (8 / x, 2, -0.5),
        (x / 8, 0.5, 0.125),
        (2**x, 16, 16 * np.log(2)),
        (x**2, 16, 8),
        (np.asarray([1.0, 2.0]) * x, [4, 8], [1, 2]),
    ]:
        np.testing.assert_array_equal(number.value, value)
        np.testing.assert_allclose(np.squeeze(number.partials), derivative, rtol=1e-15)


def test_at_a_kink_the_derivative_is_the_mean_of_both_sides():
    x = variables(0.0)
    assert abs(x).partials == 0
    assert np.maximum(x, 0).partials == 0.5
    assert np.minimum(x, 0).partials == 0.5
    assert np.maximum(x, x).partials == 1


def test_powers_of_zero_have_their_derivatives():
    x = variables(0.0)
    assert (x**0).partials == 0
    assert (x**1).partials == 1
    assert (x**2).partials == 0
    assert (np.asarray(0.0) ** (x + 2)).partials == 0


def test_comparisons_are_of_the_values():
    x, y = variables([2.0, 3.0])
    assert x < y
    assert x <= 2
    assert not x > y
    assert y >= 3
    assert x == 2
    assert x != y


def test_a_function_that_does_not_use_the_point_has_no_slope():
    np.testing.assert_array_equal(gradient(lambda x: 3.0, [[1.0, 2.0]]), [[0, 0]])


def test_what_has_no_rule_is_refused_instead_of_losing_the_derivative():
    x = variables([1.0, 2.0])
    for call in (np.cbrt, np.floor, np.add.reduce, lambda x: np.exp(x, where=True)):
        with pytest.raises(TypeError):
            call(x)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"shape \(3,\) do not fit values of shape \(2,\)"):
        Dual(np.zeros(2), np.zeros(3))
    with pytest.raises(UsageError, match="with 2 and with 3 partial derivatives meet"):
        variables([1.0, 2.0])[0] + variables([1.0, 2.0, 3.0])[0]
