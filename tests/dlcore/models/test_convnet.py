"""The small network's parts: no bias before a normalization, and its noise and statistics."""

import jax
import jax.numpy as jnp

from dlcore import models


def test_each_convolution_has_a_normalization_instead_of_a_bias():
    model = models.create("convnet_bn", features=(4, 8, 16))
    images = jax.ShapeDtypeStruct((2, 9, 7, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    for layer, features in enumerate((4, 8, 16), start=1):
        assert set(variables["params"][f"conv{layer}"]) == {"kernel"}
        assert set(variables["params"][f"conv{layer}_norm"]) == {"scale", "bias"}
        assert variables["batch_stats"][f"conv{layer}_norm"]["var"].shape == (features,)
