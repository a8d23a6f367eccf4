"""The lectures' backward passes against `jax.grad` in float64, and against each other."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore.autodiff import backprop
from dlcore.autodiff.backprop import ACTIVATIONS, Layer, Network, index_form, layer_form, unit_form
from dlcore.errors import UsageError

# JAX's own, written by others.
JAX_ACTIVATIONS = {
    "linear": lambda a: a,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": lambda a: jax.nn.leaky_relu(a, 0.1),
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
}


def jax_error(network, layers, inputs, targets):
    signals = inputs
    for weights, biases in layers[:-1]:
        signals = JAX_ACTIVATIONS[network.hidden](signals @ weights.T + biases)
    weights, biases = layers[-1]
    excitations = signals @ weights.T + biases
    if network.output == "softmax":
        return -(targets * jax.nn.log_softmax(excitations)).sum()
    return ((JAX_ACTIVATIONS[network.output](excitations) - targets) ** 2).sum() / 2


def jax_errors_and_gradients(problems):
    """Of all problems in one program: compiling one for each would take most of the time."""

    @jax.jit
    def run(arguments):
        return [
            jax.value_and_grad(functools.partial(jax_error, network))(*own)
            for (network, _, _), own in zip(problems, arguments, strict=True)
        ]

    with jax.enable_x64(True):
        results = run([(network.layers, *examples) for network, *examples in problems])
    assert all(error.dtype == np.float64 for error, _ in results)
    return jax.device_get(results)


def assert_same(gradient, expected, scale=1.0):
    assert len(gradient) == len(expected)
    for own, other in zip(gradient, expected, strict=True):
        for name in Layer._fields:
            np.testing.assert_allclose(
                getattr(own, name), scale * getattr(other, name), rtol=1e-12, atol=1e-13
            )


def problem(sizes, seed, hidden, output):
    rng = np.random.default_rng(seed)
    network = backprop.initialize(sizes, seed, hidden, output)
    inputs = rng.normal(size=(5, sizes[0]))
    if output == "softmax":
        return network, inputs, np.eye(sizes[-1])[rng.integers(0, sizes[-1], 5)]
    return network, inputs, rng.normal(size=(5, sizes[-1]))


SIZES = ((3, 2), (3, 4, 2), (2, 5, 1, 3), (3, 4, 4, 4, 4, 2))
OUTPUTS = (*sorted(ACTIVATIONS), "softmax")


def test_every_form_gives_jax_s_gradient_at_any_depth_and_activation():
    # Each activation occurs in hidden layers and as an output, and each depth with several.
    hidden = itertools.cycle(sorted(ACTIVATIONS))
    problems = [
        problem(SIZES[-1 - seed % 3], seed, next(hidden), output)
        for seed, output in enumerate(OUTPUTS)
    ]
    results = jax_errors_and_gradients(problems)
    for (network, *examples), (error, expected) in zip(problems, results, strict=True):
        assert network.error(*examples) == pytest.approx(error, rel=1e-13)
        assert_same(layer_form(network, *examples), expected)


@settings(max_examples=50)
@given(
    sizes=st.sampled_from(SIZES),
    seed=st.integers(0, 1000),
    hidden=st.sampled_from(sorted(ACTIVATIONS)),
    output=st.sampled_from(OUTPUTS),
)
def test_the_forms_agree_with_each_other(sizes, seed, hidden, output):
    network, inputs, targets = problem(sizes, seed, hidden, output)
    expected = layer_form(network, inputs, targets)
    assert_same(unit_form(network, inputs, targets), expected)
    if output != "softmax":
        # The regression of Laurent and Guillozet has no factor of a half.
        assert_same(index_form(network, inputs, targets), expected, scale=2)


def test_a_single_layer_is_the_softmax_regression_of_the_lecture():
    # Perez: dE/da = y_hat - y, dE/dW = (y_hat - y) x^T.
    network = Network([Layer(np.array([[1.0, 0.0], [0.0, 2.0]]), np.zeros(2))], output="softmax")
    x, y = np.array([1.0, 1.0]), np.array([0.0, 1.0])
    probabilities = np.exp([1, 2]) / np.exp([1, 2]).sum()
    (gradient,) = layer_form(network, x[None], y[None])
    np.testing.assert_allclose(gradient.weights, np.outer(probabilities - y, x), rtol=1e-14)
    np.testing.assert_allclose(gradient.biases, probabilities - y, rtol=1e-14)


def test_a_single_linear_unit_is_the_delta_rule():
    network = Network([Layer(np.array([[0.5, -1.0]]), np.array([0.25]))])
    x, d = np.array([2.0, 3.0]), np.array([1.0])
    delta = 0.5 * 2 - 1.0 * 3 + 0.25 - 1.0
    (gradient,) = unit_form(network, x[None], d[None])
    np.testing.assert_array_equal(gradient.weights, [delta * x])
    np.testing.assert_array_equal(gradient.biases, [delta])


def test_the_slide_s_equation_without_the_derivative_holds_for_linear_units_only():
    # Krawiec prints delta_i = sum_j w_{i->j} delta_j.
    for hidden, holds in (("linear", True), ("tanh", False)):
        network, inputs, targets = problem((3, 4, 2), 0, hidden, "linear")
        printed = np.zeros((4, 3))
        for x, d in zip(inputs, targets, strict=True):
            _, signals = network.forward(x)
            printed += np.outer(network.layers[1].weights.T @ (signals[-1] - d), x)
        right = unit_form(network, inputs, targets)[0].weights
        assert np.allclose(printed, right) is holds


def test_gradients_add_over_examples():
    network, inputs, targets = problem((3, 4, 2), 1, "sigmoid", "softmax")
    one_by_one = [
        layer_form(network, x[None], y[None]) for x, y in zip(inputs, targets, strict=True)
    ]
    summed = [
        Layer(*(sum(parts) for parts in zip(*layers, strict=True)))
        for layers in zip(*one_by_one, strict=True)
    ]
    assert_same(layer_form(network, inputs, targets), summed)


def test_large_excitations_neither_overflow_nor_lose_the_gradient():
    network = Network([Layer(np.array([[1000.0], [-1000.0]]), np.zeros(2))], output="softmax")
    inputs, targets = np.ones((1, 1)), np.array([[0.0, 1.0]])
    assert network.error(inputs, targets) == 2000
    np.testing.assert_array_equal(layer_form(network, inputs, targets)[0].biases, [1, -1])
    assert ACTIVATIONS["sigmoid"].function(np.array([-1e4, 1e4])).tolist() == [0, 1]
    assert ACTIVATIONS["softplus"].function(np.array([-1e4, 1e4])).tolist() == [0, 1e4]


def test_regression_s_form_refuses_softmax():
    network, inputs, targets = problem((3, 2), 0, "tanh", "softmax")
    with pytest.raises(UsageError, match="index_form is for regression"):
        index_form(network, inputs, targets)


def test_unknown_activations_are_refused_by_name():
    layers = [Layer(np.ones((2, 3)), np.ones(2))]
    with pytest.raises(
        UsageError, match="unknown hidden activation 'softmax': it is one of linear"
    ):
        Network(layers, hidden="softmax")
    with pytest.raises(UsageError, match="unknown output activation 'step'.*softmax"):
        Network(layers, output="step")


def test_layers_that_do_not_fit_are_refused_by_number():
    with pytest.raises(UsageError, match="at least one layer"):
        Network([])
    layers = [Layer(np.ones((2, 3)), np.ones(2)), Layer(np.ones((4, 3)), np.ones(4))]
    with pytest.raises(UsageError, match=r"layer 2 has .* it must be \(4, 2\)"):
        Network(layers)


def test_the_logarithm_of_a_softmax_keeps_its_digits_at_large_excitations():
    found = backprop._log_softmax(np.array([1e15 + 2, 1e15]))
    np.testing.assert_allclose(found, np.array([0.0, -2.0]) - np.log1p(np.exp(-2)), rtol=1e-12)
