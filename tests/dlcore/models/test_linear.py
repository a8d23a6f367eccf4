"""Softmax regression against the closed form of its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models, tasks

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
    params = {"Dense_0": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    gradients, _ = jax.grad(task.loss, has_aux=True)(params, {}, BATCH, jax.random.key(0))

    x = np.asarray(IMAGES, np.float64).reshape(6, 20)
    exponentials = np.exp(x @ kernel + bias)
    errors = exponentials / exponentials.sum(1, keepdims=True) - np.eye(3)[LABELS]
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(gradients["Dense_0"]["kernel"], x.T @ errors, **close)
    np.testing.assert_allclose(gradients["Dense_0"]["bias"], errors.sum(0), **close)
