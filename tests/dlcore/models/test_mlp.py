"""The multi-layer perceptron's options."""

import jax
import jax.numpy as jnp
import pytest

from dlcore import models
from dlcore.errors import UsageError

IMAGES = jax.ShapeDtypeStruct((2, 3, 3, 1), jnp.float32)


def test_hidden_layers_have_the_sizes_asked_for():
    model = models.create("mlp", hidden=(7, 5), num_classes=4)
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    shapes = [params[f"Dense_{layer}"]["kernel"].shape for layer in range(3)]
    assert shapes == [(9, 7), (7, 5), (5, 4)]


def test_without_hidden_layers_it_is_softmax_regression():
    model = models.create("mlp", hidden=())
    params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    assert jax.tree.map(jnp.shape, dict(params)) == {"Dense_0": {"kernel": (9, 10), "bias": (10,)}}


def test_an_unknown_activation_is_refused():
    model = models.create("mlp", activation="step")
    with pytest.raises(UsageError, match="unknown activation 'step'"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)
