"""Every family of image classifiers learns twenty real images by heart.

Of each family a narrow or a shallow member, by the batch's own statistics and without dropout: what
is tested is that the gradient leads down to zero, through every kind of layer that the family has.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from dlcore import models

STEPS, COUNT, NEARLY_ZERO = 200, 20, 0.02

# Side of the images, the rate of Adam, and the options of the narrow member.
NARROW = {"features": (48, 128, 192, 192, 128), "hidden": 256, "dropout_rate": 0.0}
FAMILIES = {
    "alexnet": (67, 5e-4, NARROW),
    "alexnet_one_tower": (63, 5e-4, NARROW),
    "densenet_bc100_12_cifar": (8, 3e-3, {"blocks": (2, 2)}),
    "fractalnet20_cifar": (
        8,
        3e-3,
        {"channels": (16, 32), "dropout_rates": (0.0, 0.0), "columns": 2, "drop_path_rate": 0.0},
    ),
    "googlenet": (32, 5e-4, {"dropout_rate": 0.0, "auxiliary": False}),
    "lenet1": (28, 5e-3, {}),
    "lenet4": (32, 5e-3, {}),
    "maxout": (8, 3e-3, {"hidden": (60, 60), "input_dropout_rate": 0.0, "dropout_rate": 0.0}),
    "nin_cifar": (8, 3e-4, {"dropout_rate": 0.0}),
    "plain20_cifar": (8, 3e-3, {"layers": (2, 2)}),
    "preresnet20_cifar": (8, 3e-3, {"blocks": (1, 1)}),
    "resnet20_cifar": (8, 3e-3, {"blocks": (1, 1)}),
    "squeezenet1_1": (32, 3e-4, {"dropout_rate": 0.0}),
    "uva_googlenet_cifar": (8, 3e-3, {}),
    "vgg_cifar": (8, 3e-3, {"dropout_rate": 0.0}),
}


# Their class maps end in a rectifier: one that is silent for all of so few images would stay so.
RECTIFIED = ("nin_cifar", "squeezenet1_1")


def twenty_digits(side, channels):
    """Two of each, enlarged by the nearest pixel."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.concatenate([np.flatnonzero(labels == digit)[:2] for digit in range(10)])
    pixels = jnp.asarray(images[chosen].reshape(COUNT, 8, 8, 1) / 8 - 1, jnp.float32)
    large = jax.image.resize(pixels, (COUNT, side, side, 1), "nearest")
    return jnp.repeat(large, channels, axis=-1), jnp.asarray(labels[chosen])


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", FAMILIES)
def test_twenty_images_are_learned_by_heart(name):
    side, rate, options = FAMILIES[name]
    model = models.create(name, num_classes=10, **options)
    channels = models.entry(name).example_inputs[0].shape[-1]
    images, labels = twenty_digits(side, channels)
    if name.startswith("alexnet"):
        images *= 60  # Its first weights are for pixels up to 255.
    optimizer = optax.adam(rate)

    def loss(params, statistics, key):
        logits, moved = model.apply(
            {"params": params, **statistics},
            images,
            train=True,
            mutable=list(statistics),
            rngs={"dropout": key},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), moved

    @jax.jit
    def step(state, key):
        params, statistics, memory = state
        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(
            params, statistics, key
        )
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(params, updates), statistics, memory), value

    statistics = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images)
    params = statistics.pop("params")
    if name in RECTIFIED:
        params["logits"]["bias"] = jnp.ones(10)
    state, losses = (params, statistics, optimizer.init(params)), []
    # A step of a loop in the program would not use XLA's fast convolutions.
    for key in jax.random.split(jax.random.key(1), STEPS):
        state, value = step(state, key)
        losses.append(float(value))
        if value < NEARLY_ZERO:
            break
    assert losses[0] > 1
    assert losses[-1] < NEARLY_ZERO, losses[::-20]
