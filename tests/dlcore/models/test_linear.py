"""One layer of units against the closed forms of its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models, tasks
from dlcore.errors import UsageError

IMAGES = jax.random.normal(jax.random.key(1), (6, 5, 4, 1))
LABELS = jnp.array([0, 2, 1, 2, 0, 2])
BATCH = {"image": IMAGES, "label": LABELS, "mask": jnp.ones(6)}


def test_the_first_loss_is_the_logarithm_of_the_number_of_classes():
    task = tasks.create("classification", models.create("softmax_regression", num_classes=3))
    params = task.init(jax.random.key(0), BATCH)["params"]
    total, aux = task.loss(params, {}, BATCH, jax.random.key(0))
    assert float(total / aux.count) == pytest.approx(np.log(3))


def test_the_gradient_is_probability_minus_target_times_input():
    task = tasks.create("classification", models.create("softmax_regression", num_classes=3))
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(20, 3)), rng.normal(size=3)
    params = {"logits": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    gradients, _ = jax.grad(task.loss, has_aux=True)(params, {}, BATCH, jax.random.key(0))

    x = np.asarray(IMAGES, np.float64).reshape(6, 20)
    exponentials = np.exp(x @ kernel + bias)
    errors = exponentials / exponentials.sum(1, keepdims=True) - np.eye(3)[LABELS]
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(gradients["logits"]["kernel"], x.T @ errors, **close)
    np.testing.assert_allclose(gradients["logits"]["bias"], errors.sum(0), **close)


def gradient_of(name, labels, params, **options):
    """The summed loss's gradient for `IMAGES`, and the model's outputs."""
    criterion = "cross_entropy" if name == "logistic_regression" else "half_square"
    task = tasks.create("classification", models.create(name, **options), criterion=criterion)
    layer = "logits" if name == "logistic_regression" else "units"
    params = {layer: {part: jnp.asarray(array) for part, array in params.items()}}
    batch = {**BATCH, "label": labels}
    gradient, _ = jax.grad(task.loss, has_aux=True)(params, {}, batch, jax.random.key(0))
    return gradient[layer], task.model.apply({"params": params}, IMAGES)


def drawn(units):
    rng = np.random.default_rng(0)
    return {"kernel": 0.3 * rng.normal(size=(20, units)), "bias": rng.normal(size=units)}


def test_logistic_regression_of_two_classes_is_one_sigmoid_unit():
    labels = jnp.array([0, 1, 1, 0, 0, 1])
    params = drawn(1)
    gradient, scores = gradient_of("logistic_regression", labels, params)
    x = np.asarray(IMAGES, np.float64).reshape(6, 20)
    probability = 1 / (1 + np.exp(-(x @ params["kernel"] + params["bias"])[:, 0]))
    np.testing.assert_allclose(jax.nn.softmax(scores)[:, 1], probability, rtol=1e-4)
    expected = x.T @ (probability - labels)
    np.testing.assert_allclose(gradient["kernel"][:, 0], expected, rtol=1e-4, atol=1e-5)


def test_logistic_regression_of_one_class_is_refused():
    with pytest.raises(UsageError, match="two classes or more, not 1: for numbers take linear"):
        models.create("logistic_regression", num_classes=1).init(jax.random.key(0), IMAGES)


# The units' functions, and their derivatives as functions of the output.
FUNCTIONS = {
    "linear": (lambda e: e, np.ones_like),
    "sigmoid": (lambda e: 1 / (1 + np.exp(-e)), lambda y: y * (1 - y)),
    "tanh": (np.tanh, lambda y: 1 - y**2),
}


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_half_the_square_loss_of_a_unit_has_the_delta_rule_s_gradient(activation):
    function, slope = FUNCTIONS[activation]
    params = drawn(3)
    options = {"num_classes": 3, "activation": activation}
    gradient, outputs = gradient_of("linear_units", LABELS, params, **options)
    x = np.asarray(IMAGES, np.float64).reshape(6, 20)
    y = function(x @ params["kernel"] + params["bias"])
    np.testing.assert_allclose(outputs, y, rtol=1e-4, atol=1e-5)
    delta = (y - np.eye(3)[LABELS]) * slope(y)
    np.testing.assert_allclose(gradient["kernel"], x.T @ delta, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient["bias"], delta.sum(0), rtol=1e-4, atol=1e-5)


def test_an_activation_that_merges_units_is_refused():
    with pytest.raises(UsageError, match="activation 'maxout' merges units"):
        models.create("linear_units", activation="maxout").init(jax.random.key(0), IMAGES)
