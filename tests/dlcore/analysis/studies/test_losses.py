"""The curves of the losses against what the lectures say of them."""

import numpy as np
import pytest

from dlcore.analysis import studies
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def study():
    return studies.create("losses", points=61, truth=0.7)


@pytest.fixture(scope="module")
def numbers(study):
    return study.run()


def test_the_surrogates_of_the_zero_one_loss_are_never_below_it(numbers):
    np.testing.assert_array_equal(numbers["zero-one"], numbers["x"] <= 0)
    for name in ("hinge", "cross-entropy in bits", "square of 1 - margin"):
        assert (numbers[name] >= numbers["zero-one"] - 1e-6).all()
    np.testing.assert_allclose(numbers["hinge"], np.maximum(0, 1 - numbers["x"]), atol=1e-6)


def test_smoothed_labels_are_met_at_a_finite_margin(numbers):
    best = numbers["x"][numbers["smoothing 0.3"].argmin()]
    # Where the softmax gives the smoothed label: log(0.85 / 0.15).
    assert best == pytest.approx(np.log(0.85 / 0.15), abs=0.06)
    assert numbers["smoothing 0"].argmin() == len(numbers["x"]) - 1


def test_cross_entropy_is_entropy_plus_divergence_and_least_at_the_truth(numbers):
    entropy = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3))
    np.testing.assert_allclose(numbers["entropy of the truth"], entropy, rtol=1e-5)
    parts = numbers["KL divergence"] + entropy
    np.testing.assert_allclose(numbers["cross-entropy"], parts, rtol=1e-4)
    assert numbers["likeliest_prediction"] == pytest.approx(0.7, abs=0.01)


def test_the_losses_of_an_error_are_those_of_the_decks(numbers):
    np.testing.assert_allclose(numbers["square"], numbers["x"] ** 2, rtol=1e-5)
    np.testing.assert_allclose(numbers["half square"], numbers["square"] / 2, rtol=1e-5)
    np.testing.assert_allclose(numbers["absolute"], np.abs(numbers["x"]), rtol=1e-5)


def test_the_figure_has_a_panel_for_each_kind(study, numbers):
    assert len(study.draw(numbers).axes) == 4


@pytest.mark.parametrize("option", [{"limit": 0.0}, {"truth": 1.0}, {"points": 1}])
def test_an_option_out_of_range_is_refused(option):
    with pytest.raises(UsageError, match=f"{next(iter(option))}(=| is)"):
        studies.create("losses", **option)
