"""The paths of ridge and lasso against closed forms and scikit-learn."""

import numpy as np
import pytest
from sklearn import linear_model

from dlcore import data
from dlcore.analysis import studies
from dlcore.errors import UsageError


@pytest.fixture(scope="module")
def study():
    return studies.create("shrinkage", strengths=5, smallest=0.1, largest=100.0)


@pytest.fixture(scope="module")
def numbers(study):
    return study.run()


@pytest.fixture(scope="module")
def examples():
    table = data.load("diabetes", options={"validation_fraction": 0.0})
    (batch,) = table.evaluation_batches("train", table.num_examples("train"))
    inputs = np.float64(table.transform(batch, None, False)["row"])
    return inputs, np.float64(batch["numbers"][:, 0])


def test_ridge_s_weights_are_the_closed_form_and_never_zero(numbers, examples):
    x, y = examples
    centered = y - y.mean()
    for strength, weights in zip(numbers["strength"], numbers["ridge"], strict=True):
        matrix = x.T @ x / len(x) + strength * np.eye(x.shape[1])
        expected = np.linalg.solve(matrix, x.T @ centered / len(x))
        np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-3)
    assert numbers["ridge_zeros"] == 0


def test_the_lasso_s_weights_are_scikit_learn_s_zeros_included(numbers, examples):
    for strength, weights in zip(numbers["strength"], numbers["lasso"], strict=True):
        lasso = linear_model.Lasso(strength, tol=1e-12, max_iter=100_000).fit(*examples)
        np.testing.assert_allclose(weights, lasso.coef_, rtol=1e-3, atol=2e-3)
        np.testing.assert_array_equal(weights == 0, lasso.coef_ == 0)
    assert numbers["lasso_zeros"] == (numbers["lasso"] == 0).sum()


def test_beyond_its_known_limit_the_lasso_drops_every_input(numbers):
    beyond = numbers["strength"] > numbers["strength_that_drops_all"]
    assert 0 < beyond.sum() < len(beyond)
    np.testing.assert_array_equal((numbers["lasso"] == 0).all(1), beyond)


def test_the_figure_has_a_panel_for_each(study, numbers):
    assert len(study.draw(numbers).axes) == 2


@pytest.mark.parametrize(
    "option", [{"smallest": 0.0}, {"smallest": 200.0}, {"strengths": 1}, {"steps": 0}]
)
def test_an_option_out_of_range_is_refused(option):
    with pytest.raises(UsageError, match=f"{next(iter(option))}(=| is)"):
        studies.create("shrinkage", **option)
