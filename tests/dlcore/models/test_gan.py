"""The adversarial pair against its equations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models

OPTIONS = {
    "image_size": 4,
    "latent_size": 3,
    "generator_hidden": (5, 6),
    "discriminator_hidden": (4, 3),
    "pieces": 2,
}


@pytest.fixture(scope="module")
def pair():
    model = models.create("gan", **OPTIONS)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(-1, 1, (7, 4, 4, 1)), jnp.float32)
    latent = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, latent)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return model, variables, images, latent


def wide(params):
    """The layers of one player in order, as float64 (kernel, bias)."""
    last = "image" if "image" in params else "logits"
    layers = [params[name] for name in ("hidden0", "hidden1", last)]
    return [(layer["kernel"].astype(np.float64), layer["bias"]) for layer in layers]


def test_the_generator_is_rectifiers_and_a_tanh(pair):
    model, variables, _, latent = pair
    *hidden, (kernel, bias) = wide(variables["params"]["generator"])
    x = latent
    for own_kernel, own_bias in hidden:
        x = np.maximum(x @ own_kernel + own_bias, 0)
    expected = np.tanh(x @ kernel + bias).reshape(7, 4, 4, 1)
    images = model.apply(variables, latent, method="generate")
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-6)


def test_a_maxout_unit_takes_the_largest_of_its_linear_pieces(pair):
    model, variables, images, _ = pair
    *hidden, (kernel, bias) = wide(variables["params"]["discriminator"])
    x = images.reshape(7, 16)
    for own_kernel, own_bias in hidden:
        pieces = x @ own_kernel + own_bias
        x = np.stack(
            [pieces[:, 2 * unit : 2 * unit + 2].max(1) for unit in range(pieces.shape[1] // 2)], 1
        )
    logits = model.apply(variables, images, method="discriminate")
    np.testing.assert_allclose(logits, (x @ kernel + bias)[:, 0], rtol=1e-5, atol=1e-5)


def test_only_the_discriminator_is_noisy_and_only_in_training(pair):
    model, variables, images, latent = pair
    rngs = {"dropout": jax.random.key(1)}

    def both(train):
        return model.apply(variables, images, latent, train, rngs=rngs)

    (quiet_images, quiet_logits), (noisy_images, noisy_logits) = both(False), both(True)
    np.testing.assert_array_equal(noisy_images, quiet_images)
    assert not np.isclose(noisy_logits, quiet_logits).any()


@pytest.mark.parametrize("rate", ["input_dropout_rate", "hidden_dropout_rate"])
def test_each_dropout_rate_acts_by_itself(pair, rate):
    _, variables, images, latent = pair
    rates = {"input_dropout_rate": 0.0, "hidden_dropout_rate": 0.0, rate: 0.5}
    model = models.create("gan", **OPTIONS, **rates)
    rngs = {"dropout": jax.random.key(1)}
    quiet = model.apply(variables, images, latent)[1]
    noisy = model.apply(variables, images, latent, train=True, rngs=rngs)[1]
    assert not np.allclose(noisy, quiet)
