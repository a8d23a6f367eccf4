"""Multiply-adds against closed forms, counts by hand and the published ones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dlcore import models
from dlcore.analysis import counts


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def product(x):
    """One of [3, 4] and [4, 5]: 60 multiply-adds."""
    return x @ jnp.ones((4, 5))


def test_a_dense_layer_has_one_multiply_add_a_weight():
    assert counts.of_model(Dense(7), array(9, 5)) == (5 * 7 + 7, 5 * 7)


class Dense(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.features)(x)


@pytest.mark.parametrize(
    ("layer", "size", "expected"),
    [
        # Ten positions each way, padded; 4 of the 8 inputs belong to an output's group.
        (nn.Conv(6, (3, 3), feature_group_count=2), (10, 10, 8), 100 * 6 * 9 * 4),
        # Its 3x3 kernel spans 5: (11 - 5) / 2 + 1 = 4 positions, and (13 - 5) / 2 + 1 = 5.
        (nn.Conv(6, (3, 3), 2, "VALID", kernel_dilation=2), (11, 13, 4), 4 * 5 * 6 * 9 * 4),
        # A filter a channel.
        (nn.Conv(8, (3, 3), feature_group_count=8), (10, 10, 8), 100 * 9 * 8),
        (nn.Conv(3, (5,), 1, "VALID"), (12, 2), 8 * 3 * 5 * 2),
        (nn.ConvTranspose(6, (4, 4), (2, 2)), (5, 5, 3), 25 * 16 * 3 * 6),
        (nn.ConvTranspose(6, (3, 3), (2, 2), "VALID"), (5, 5, 3), 25 * 9 * 3 * 6),
    ],
)
def test_a_convolution_has_one_multiply_add_a_position_and_weight(layer, size, expected):
    inputs = array(1, *size)
    variables = jax.eval_shape(layer.init, jax.random.key(0), inputs)
    assert counts.multiply_adds(layer.apply, variables, inputs) == expected


with_own_gradient, with_own_tangent = jax.custom_vjp(product), jax.custom_jvp(product)
with_own_gradient.defvjp(lambda x: (product(x), None), lambda _, g: (g @ jnp.ones((5, 4)),))
with_own_tangent.defjvps(lambda tangent, value, x: product(tangent))


@pytest.mark.parametrize(
    ("function", "times"),
    [
        (jax.jit(product), 1),
        (jax.checkpoint(product), 1),
        (with_own_gradient, 1),
        (with_own_tangent, 1),
        (lambda x: jax.lax.scan(lambda _, own: (None, product(own)), None, jnp.stack([x] * 6)), 6),
        (lambda x: jax.lax.cond(x[0, 0] > 0, product, lambda x: x[:, :1] * jnp.ones(5), x), 1),
        (lambda x: jax.lax.map(jax.jit(jax.checkpoint(product)), jnp.stack([x] * 3)), 3),
        (jax.vmap(lambda row: row @ jnp.ones((4, 5))), 1),
        (lambda x: jnp.einsum("ij,jk->ik", x, jnp.ones((4, 5))), 1),
        (lambda x: jax.lax.while_loop(lambda x: (x < 9).all(), lambda x: x + 1, x), 0),
    ],
)
def test_products_are_found_wherever_they_are(function, times):
    assert counts.multiply_adds(function, array(3, 4)) == 60 * times


def test_products_in_a_loop_of_unknown_length_are_refused():
    def loop(x):
        return jax.lax.while_loop(
            lambda x: (x < 9).all(), lambda x: product(x) @ jnp.ones((5, 4)), x
        )

    with pytest.raises(ValueError, match="in while cannot be counted"):
        counts.multiply_adds(loop, array(3, 4))


def test_lenet5_has_the_multiply_adds_of_its_layers():
    # C1, C3 (of whose 6 x 16 kernels the masked ones are there, as zeros), C5 and F6.
    layers = [28 * 28 * 6 * 25, 10 * 10 * 16 * 6 * 25, 120 * 16 * 25, 120 * 84]
    assert counts.of_model(models.create("lenet5"), array(1, 32, 32, 1)) == (60_000, sum(layers))


def test_an_lstm_has_the_multiply_adds_of_every_step():
    inputs = jax.ShapeDtypeStruct((2, 5), jnp.int32)
    model = models.create("char_lstm")
    carry = jax.eval_shape(functools.partial(model.initial_carry, 2))
    # Four gates see the characters or the layer below, and the layer itself; then the logits.
    step = 4 * 128 * (65 + 128) + 4 * 128 * (128 + 128) + 128 * 65
    assert counts.of_model(model, inputs, carry) == (239_297, 5 * step)


@pytest.mark.parametrize(("name", "billions"), [("resnet18", 1.81), ("resnet50", 4.09)])
def test_residual_networks_have_their_published_multiply_adds(name, billions):
    # As torchvision's documentation of the same layouts has them, at 224x224.
    count = counts.of_model(models.create(name), array(1, 224, 224, 3))
    assert count.parameters == models.entry(name).parameter_count
    assert round(count.multiply_adds / 1e9, 2) == billions
