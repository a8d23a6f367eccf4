"""A unit cannot learn the identity, networks learn what is near to it as a residual."""

import jax
import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.analysis.studies import residual_learning
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def study():
    return studies.create(
        "residual_learning", noise=(0.05, 1.0), units=32, steps=256, halvings=0, starts=1
    )


@pytest.fixture(scope="module")
def numbers(study):
    return study.run()


def test_a_rectified_unit_leaves_what_is_negative_and_a_residual_one_nothing(numbers):
    x = numbers["x"]
    # The squares of the negative half, which no unit that serves the other half can answer.
    assert numbers["unit_direct_least"] == pytest.approx(np.square(x[x < 0]).sum() / len(x), 1e-4)
    np.testing.assert_allclose(numbers["unit_direct"], np.maximum(x, 0), atol=0.01)
    np.testing.assert_allclose(numbers["unit_residual"], x, atol=1e-4)


def test_no_line_of_units_is_below_the_least_that_descent_finds(numbers):
    x = numbers["x"]
    weight, bias = np.meshgrid(np.linspace(-2, 2, 81), np.linspace(-2, 2, 81))
    answers = np.maximum(weight[..., None] * x + bias[..., None], 0)
    least = np.square(answers - x).mean(-1).min()
    assert numbers["unit_direct_least"] <= least + 1e-6


def test_little_noise_is_easier_to_learn_than_the_patch_and_much_noise_harder(numbers):
    assert numbers["least_noise_direct_over_residual"] > 4
    assert numbers["most_noise_direct_over_residual"] < 1
    assert numbers["direct"].shape == numbers["residual"].shape == (2, 1)


def test_both_ways_begin_with_the_same_network():
    params = {
        "kernel0": np.eye(2, 3),
        "bias0": np.zeros(3),
        "kernel1": np.ones((3, 3)),
        "bias1": np.full(3, -1.0),
        "kernel2": np.ones((3, 2)),
        "bias2": np.array([0.5, 0.0]),
    }
    x = np.array([[2.0, -1.0]])
    # Hidden units (2, 0, 0), then (1, 1, 1), whose sum is 3.
    np.testing.assert_allclose(residual_learning._answer(params, x, False), [[3.5, 3.0]])
    np.testing.assert_allclose(residual_learning._answer(params, x, True), [[5.5, 2.0]])


def test_the_best_linear_answer_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(4000, 5)) @ rng.normal(size=(5, 5))
    noisy = train + 0.5 * rng.normal(size=train.shape)
    fitted = noisy @ np.linalg.lstsq(noisy, train)[0]
    expected = np.square(fitted - train).mean()
    error = residual_learning._linear_error(train, train, noisy, 0.5)
    assert error == pytest.approx(expected, rel=0.02)


def test_patches_are_of_two_parts_and_in_units_of_the_first():
    train, test = residual_learning._patches(np.random.default_rng(0))
    assert (train.shape[1], test.shape) == (100, (2000, 100))
    assert train.mean() == pytest.approx(0, abs=1e-3)
    assert train.std() == pytest.approx(1, abs=1e-3)


def test_the_figure_shows_the_unit_the_steps_and_the_noise(study, numbers):
    axes = study.draw(jax.device_get(numbers)).axes
    assert [len(own.lines) for own in axes] == [2, 4, 3]


@pytest.mark.parametrize(
    "option", [{"noise": (0.2, 0.1)}, {"noise": (0.0,)}, {"units": 0}, {"steps": 7}, {"starts": 0}]
)
def test_an_option_out_of_range_is_refused(option):
    with pytest.raises(UsageError, match=f"{next(iter(option))}(=| is)"):
        studies.create("residual_learning", **option)
