"""Two heads over one trunk."""

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import models

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 2)), jnp.float32)


def test_the_heads_are_affine_in_one_hidden_code():
    model = models.create("multitask_mlp", hidden=(5,), num_classes=3, num_tags=2)
    params = jax.device_get(model.init(jax.random.key(0), X)["params"])
    hidden, classes, tags = (
        lambda x, layer=params[name]: x @ np.float64(layer["kernel"]) + layer["bias"]
        for name in ("hidden0", "class_logits", "tag_logits")
    )
    code = np.maximum(hidden(np.float64(X).reshape(4, 6)), 0)
    scores, logits = model.apply({"params": params}, X)
    np.testing.assert_allclose(scores, classes(code), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, tags(code), rtol=1e-4, atol=1e-5)
