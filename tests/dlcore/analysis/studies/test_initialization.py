"""The study of initialization against the theory of wide networks, in float64."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError

LAYERS, UNITS = 4, 300
SETTINGS = ("tanh+small_uniform:0.01", "tanh+xavier", "relu+xavier", "relu+he")
VARIANCES = (0.01**2 / 3, 1 / UNITS, 1 / UNITS, 2 / UNITS)


@pytest.fixture(scope="module")
def study():
    return studies.create("initialization", layers=LAYERS, units=UNITS, examples=200)


@pytest.fixture(scope="module")
def numbers(study):
    return study.run()


def wide_network(g, g_prime, variance):
    """Mean squares of activations and gradients by layer, of infinitely many units.

    A unit's sum is normal with variance N sigma^2 E[h^2], and a gradient passes a layer with the
    factor N sigma^2 E[g'^2] (Poole et al. 2016; Schoenholz et al. 2017).
    """
    # An even number of points: none sits on the step of the derivative of ReLU.
    points, weights = np.polynomial.hermite_e.hermegauss(100)
    weights = weights / weights.sum()
    square, squares, factors = 1.0, [], []
    for _ in range(LAYERS):
        sums = np.sqrt(UNITS * variance * square) * points
        factors.append(UNITS * variance * (weights * g_prime(sums) ** 2).sum())
        square = (weights * g(sums) ** 2).sum()
        squares.append(square)
    # The gradient with respect to a layer's activations has passed all layers above it.
    gradients = [np.prod(factors[layer + 1 :]) for layer in range(LAYERS)]
    return np.array(squares), np.array(gradients)


@pytest.mark.parametrize("index", range(4))
def test_activations_and_gradients_are_those_of_a_wide_network(numbers, index):
    if SETTINGS[index].startswith("tanh"):
        g, g_prime = np.tanh, lambda x: np.cosh(x) ** -2
    else:
        g, g_prime = lambda x: np.maximum(x, 0), lambda x: x > 0
    squares, gradients = wide_network(g, g_prime, VARIANCES[index])
    deviations = numbers["activation_deviation"][index]
    measured = deviations**2 + numbers["activation_mean"][index] ** 2
    np.testing.assert_allclose(measured, squares, rtol=0.15)
    np.testing.assert_allclose(numbers["gradient_deviation"][index] ** 2, gradients, rtol=0.15)


def test_the_small_interval_vanishes_and_he_does_not(numbers):
    # K's observations; ReLU under Xavier loses half of the mean square a layer.
    ratios = [numbers[f"activation_ratio {setting}"] for setting in SETTINGS]
    assert ratios[0] == pytest.approx((0.01 * np.sqrt(UNITS / 3)) ** (LAYERS - 1), rel=0.05)
    assert ratios[2] == pytest.approx(0.5 ** ((LAYERS - 1) / 2), rel=0.1)
    assert ratios[3] == pytest.approx(1, rel=0.1)
    assert numbers["gradient_ratio relu+he"] == pytest.approx(1, rel=0.1)


def test_half_of_the_units_are_active(numbers):
    # D: in a randomly initialized network about 50 % of hidden units are activated.
    np.testing.assert_allclose(numbers["active_fraction"], np.full((4, LAYERS), 0.5), atol=0.08)


def test_the_samples_are_of_the_distributions_that_the_moments_describe(numbers):
    for name in ("activation", "gradient"):
        sample = np.float64(numbers[f"{name}_sample"])
        assert sample.shape == (4, LAYERS, 5000)
        np.testing.assert_allclose(sample.std(-1), numbers[f"{name}_deviation"], rtol=0.15)


def test_the_figure_has_a_column_a_layer_and_two_rows_a_setting(numbers):
    small = studies.create("initialization", layers=2, settings="tanh+xavier,relu+he")
    drawn = {name: numbers[name][:2, :2] for name in ("activation_sample", "gradient_sample")}
    assert len(small.draw(drawn).axes) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"settings": "tanh+xaver"}, "unknown initializer 'xaver'"),
        ({"settings": "than+xavier"}, "unknown activation 'than'"),
        ({"settings": "tanh"}, "unknown initializer ''"),
        ({"units": 0}, "units=0: it must be at least 1"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        studies.create("initialization", **options)
