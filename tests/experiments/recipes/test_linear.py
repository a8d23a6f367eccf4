"""The classical learners end where closed forms and scikit-learn's solvers end."""

import jax
import numpy as np
import pytest
import scipy.special
from sklearn import linear_model

from dlcore.train.preparation import prepare
from experiments import recipes

# Of standardized inputs; the targets of diabetes are in the hundreds, classes' scores near one.
TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}


def examples(dataset, split):
    """Inputs as the model sees them, and labels, in float64."""
    (batch,) = dataset.evaluation_batches(split, dataset.num_examples(split))
    inputs = dataset.transform(batch, None, False)["image"]
    label = batch["numbers"] if "numbers" in batch else batch["label"]
    return np.asarray(inputs, np.float64), label.astype(np.float64) if label.ndim > 1 else label


class Trained:
    """A recipe, trained step by step without a run directory."""

    def __init__(self, name):
        prepared = prepare(recipes.get(name))
        program, resolved = prepared.program, prepared.recipe
        state = program.parallelism.place_state(program.initialize())
        batches = prepared.dataset.train_batches(resolved.batch_size, resolved.seed).start(0)
        for _ in range(prepared.plan.num_steps):
            state, _ = program.step(state, next(batches))
        (layer,) = jax.device_get(state.params).values()
        self.recipe, self.dataset, self.num_steps = (
            resolved,
            prepared.dataset,
            prepared.plan.num_steps,
        )
        self.kernel, self.bias = (np.float64(layer[part]) for part in ("kernel", "bias"))
        self.x, self.y = examples(prepared.dataset, "train")

    def assert_equal(self, kernel, bias):
        np.testing.assert_allclose(self.kernel, kernel, **TOLERANCE)
        np.testing.assert_allclose(self.bias, bias, **TOLERANCE)


def test_least_squares_solves_the_normal_equations():
    trained = Trained("least_squares_diabetes")
    ones = np.ones((len(trained.x), 1))
    solution = np.linalg.lstsq(np.hstack([trained.x, ones]), trained.y)[0]
    trained.assert_equal(solution[:-1], solution[-1])


def test_ridge_regression_is_the_closed_form_and_scikit_learn_s():
    trained = Trained("ridge_diabetes")
    # scikit-learn's objective is ||Xw - y||^2 + alpha ||w||^2, ours its half over the examples.
    alpha = trained.recipe.weight_decay * len(trained.x)
    ridge = linear_model.Ridge(alpha, tol=1e-12).fit(trained.x, trained.y)
    trained.assert_equal(ridge.coef_.reshape(-1, 1), ridge.intercept_)
    centered = trained.x - trained.x.mean(0)
    gram = centered.T @ centered + alpha * np.eye(centered.shape[1])
    trained.assert_equal(np.linalg.solve(gram, centered.T @ trained.y), trained.y.mean(0))


def test_the_lasso_is_scikit_learn_s_and_drops_the_same_inputs():
    trained = Trained("lasso_diabetes")
    lasso = linear_model.Lasso(trained.recipe.l1, tol=1e-12, max_iter=100_000)
    lasso.fit(trained.x, trained.y[:, 0])
    kernel = trained.kernel[:, 0]
    # The subgradient leaves a rest: at most a thousandth of the largest weight.
    rest = 1e-3 * np.abs(lasso.coef_).max()
    np.testing.assert_allclose(kernel, lasso.coef_, rtol=0, atol=rest)
    np.testing.assert_allclose(trained.bias, lasso.intercept_, rtol=1e-5)
    dropped = lasso.coef_ == 0
    assert 0 < dropped.sum() < len(dropped)
    np.testing.assert_array_equal(np.abs(kernel) < rest, dropped)


@pytest.mark.parametrize("name", ["logistic_regression_breast_cancer", "softmax_regression_iris"])
def test_logistic_regression_is_scikit_learn_s(name):
    trained = Trained(name)
    # scikit-learn's objective is C times the summed loss + ||w||^2 / 2.
    c = 1 / (trained.recipe.weight_decay * len(trained.x))
    reference = linear_model.LogisticRegression(C=c, tol=1e-10, max_iter=10_000)
    reference.fit(trained.x, trained.y)
    # Of several classes only differences of scores count: the mean bias is free.
    bias = reference.intercept_
    np.testing.assert_allclose(trained.kernel, reference.coef_.T, **TOLERANCE)
    if len(bias) > 1:
        bias, trained.bias = bias - bias.mean(), trained.bias - trained.bias.mean()
    np.testing.assert_allclose(trained.bias, bias, **TOLERANCE)


def by_hand(trained, function, slope):
    """The delta rule, w <- w - rate delta x f'(e), one example after the other, in float64."""
    kernel, bias = np.zeros_like(trained.kernel), np.zeros_like(trained.bias)
    batches = trained.dataset.train_batches(1, trained.recipe.seed).start(0)
    for step in range(trained.num_steps):
        batch = next(batches)
        x = np.float64(trained.dataset.transform(batch, None, False)["image"][0])
        rate = trained.recipe.learning_rate * (1 + np.cos(np.pi * step / trained.num_steps)) / 2
        excitation = x @ kernel + bias
        delta = function(excitation) - np.eye(3)[batch["label"][0]]
        kernel -= rate * np.outer(x, delta * slope(excitation))
        bias -= rate * delta * slope(excitation)
    return kernel, bias


def test_linear_units_follow_the_delta_rule_to_least_squares():
    trained = Trained("delta_rule_linear_wine")
    trained.assert_equal(*by_hand(trained, lambda e: e, np.ones_like))
    inputs = np.hstack([trained.x, np.ones((len(trained.x), 1))])
    targets = np.eye(3)[trained.y]
    solution, least, *_ = np.linalg.lstsq(inputs, targets)
    reached = np.square(trained.x @ trained.kernel + trained.bias - targets).sum()
    assert least.sum() <= reached < 1.001 * least.sum()
    np.testing.assert_allclose(trained.kernel, solution[:-1], atol=0.03 * np.abs(solution).max())


def test_sigmoid_units_follow_the_delta_rule_with_their_slope():
    trained = Trained("delta_rule_nonlinear_wine")
    sigmoid = scipy.special.expit
    trained.assert_equal(*by_hand(trained, sigmoid, lambda e: sigmoid(e) * (1 - sigmoid(e))))
