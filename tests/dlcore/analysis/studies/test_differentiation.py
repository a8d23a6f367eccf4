"""Every way to differentiate beside SymPy's, and the U-shape of the differences' error."""

import functools

import matplotlib.figure
import numpy as np
import pytest
import sympy

from dlcore.analysis import study
from dlcore.analysis.studies import differentiation
from dlcore.errors import UsageError

SYMPY_ACTIVATIONS = {
    "tanh": sympy.tanh,
    "sigmoid": lambda a: 1 / (1 + sympy.exp(-a)),
    "softplus": lambda a: sympy.log(1 + sympy.exp(a)),
}


@functools.cache
def measured():
    return study.create("differentiation", hidden=(3, 3)).run()


def by_sympy(network, inputs, targets, activation):
    """The gradient of half the squared distance, derived as formulas."""
    parameters, values = [], []

    def symbols(array):
        new = np.array([sympy.Symbol(f"p{len(parameters) + place}") for place in range(array.size)])
        parameters.extend(new)
        values.extend(array.ravel())
        return sympy.Matrix(new.reshape(array.shape))

    layers = [(symbols(weights), symbols(biases)) for weights, biases in network.layers]
    error = sympy.Integer(0)
    for x, y in zip(inputs, targets, strict=True):
        signals = sympy.Matrix(x)
        for weights, biases in layers[:-1]:
            signals = (weights * signals + biases).applyfunc(SYMPY_ACTIVATIONS[activation])
        weights, biases = layers[-1]
        distance = weights * signals + biases - sympy.Matrix(y)
        error += distance.dot(distance) / 2
    gradient = [sympy.diff(error, parameter) for parameter in parameters]
    return np.asarray(sympy.lambdify(parameters, gradient, "numpy", cse=True)(*values))


@pytest.mark.parametrize("activation", SYMPY_ACTIVATIONS)
def test_every_way_agrees_with_the_derived_formulas(activation):
    experiment = differentiation.Differentiation(hidden=(2,), activation=activation, examples=2)
    numbers = experiment.run()
    expected = by_sympy(experiment.network(1), *experiment.data(), activation)
    scale = np.abs(expected).max()
    for way, precision in {
        "jax": 1e-14,
        "dual": 1e-14,
        "layer_form": 1e-14,
        "index_form": 1e-14,
        "unit_form": 1e-14,
        "central": 1e-9,
        "forward": 1e-6,
    }.items():
        assert np.abs(numbers[f"gradient_{way}"] - expected).max() < precision * scale, way


def test_differences_err_by_their_order_and_then_by_rounding():
    numbers = measured()
    step = numbers["step"]
    large = (step > 9e-4) & (step < 1.1e-2)
    for way, order, best in (("forward", 1, 1.5e-8), ("central", 2, 6e-6)):
        error = numbers[f"{way}_error"]
        slope = np.polyfit(np.log(step[large]), np.log(error[large]), 1)[0]
        assert slope == pytest.approx(order, abs=0.05)
        # The theory's step, up to what it leaves out: the ratio of the derivatives.
        assert best / 30 < numbers[f"{way}_best_step"] < best * 30
        rounding = step < 1e-10
        slope = np.polyfit(np.log(step[rounding]), np.log(error[rounding]), 1)[0]
        assert slope == pytest.approx(-1, abs=0.2)


def test_only_differences_are_far_from_jax():
    numbers = measured()
    np.testing.assert_array_equal(numbers["depth"], [1, 2])
    for way in ("dual", "layer_form", "index_form", "unit_form"):
        assert numbers[f"depth_error_{way}"].max() < 1e-14
    assert 1e-12 < numbers["depth_error_central"].max() < 1e-8
    assert 1e-9 < numbers["depth_error_forward"].max() < 1e-6


def test_the_figure_has_both_comparisons():
    experiment = study.create("differentiation", hidden=(3, 3))
    figure = experiment.draw(measured())
    assert isinstance(figure, matplotlib.figure.Figure)
    assert [len(axes.lines) for axes in figure.axes] == [2, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, "hidden(=| is)"),
        ({"hidden": (3, 0)}, "hidden(=| is)"),
        ({"activation": "relu"}, "unknown activation 'relu': it is one of tanh"),
        ({"examples": 0}, "examples=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        study.create("differentiation", **options)
