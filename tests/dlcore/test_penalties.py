"""Penalties against closed forms, and against what the optimizer does of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import penalties
from dlcore.optim import builder, schedules

rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


PARAMS = {
    "conv1": {"kernel": normal(3, 3, 2, 4), "bias": normal(4)},
    "logits": {"kernel": normal(6, 5), "bias": normal(5)},
    "norm": {"scale": normal(5), "bias": normal(5)},
}
WEIGHTS = np.concatenate(
    [np.float64(PARAMS[name]["kernel"]).ravel() for name in ("conv1", "logits")]
)
X = jnp.asarray(rng.normal(size=(7, 6)), jnp.float32)


def test_the_penalties_of_parameters_see_weights_and_leave_biases_and_scales_alone():
    assert float(penalties.l1(PARAMS)) == pytest.approx(np.abs(WEIGHTS).sum(), rel=1e-5)
    assert float(penalties.l2(PARAMS)) == pytest.approx((WEIGHTS**2).sum(), rel=1e-5)
    both = 0.3 * np.abs(WEIGHTS).sum() + 0.05 * (WEIGHTS**2).sum()
    assert float(penalties.elastic(PARAMS, 0.3, 0.1)) == pytest.approx(both, rel=1e-5)
    assert float(penalties.l1({"bias": jnp.ones(3)})) == 0


def test_a_recipe_s_weight_decay_and_l1_descend_the_elastic_penalty():
    options = builder.Options(weight_decay=0.1, l1=0.3)
    optimizer = builder.build("sgd", schedules.build("constant", 0.5, 10), options)
    # One that is 0, as a lasso has them, is not pushed off it.
    kernel = PARAMS["logits"]["kernel"].at[2, 3].set(0)
    params = {**PARAMS, "logits": {**PARAMS["logits"], "kernel": kernel}}
    no_gradient = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(no_gradient, optimizer.init(params), params)
    slopes = jax.grad(penalties.elastic)(params, 0.3, 0.1)
    jax.tree.map(
        lambda update, slope: np.testing.assert_allclose(
            update, -0.5 * slope, rtol=1e-5, atol=1e-7
        ),
        updates,
        slopes,
    )


def test_sparsity_is_the_sum_of_each_example_s_absolute_activations():
    activations = normal(3, 2, 4)
    expected = np.abs(activations).sum((1, 2))
    np.testing.assert_allclose(penalties.sparsity(activations), expected, rtol=1e-5)
    slopes = jax.grad(lambda x: penalties.sparsity(x).sum())(jnp.array([[-2.0, 0.0, 3.0]]))
    np.testing.assert_array_equal(slopes, [[-1, 0, 1]])


def test_a_linear_code_contracts_by_its_weights_everywhere():
    kernel = rng.normal(size=(6, 5))
    expected = np.full(7, (kernel**2).sum())
    contraction = penalties.contractive(lambda x: x @ kernel, X)
    np.testing.assert_allclose(contraction, expected, rtol=1e-5)


def test_a_sigmoid_code_contracts_as_rifai_et_al_derive():
    # Rifai et al. (2011): the sum over units of (h (1 - h))^2 times the unit's squared weights.
    kernel, bias = PARAMS["logits"]["kernel"], PARAMS["logits"]["bias"]
    contraction = penalties.contractive(lambda x: jax.nn.sigmoid(x @ kernel + bias), X)
    code = 1 / (1 + np.exp(-(np.float64(X) @ np.float64(kernel) + np.float64(bias))))
    expected = (code * (1 - code)) ** 2 @ np.square(np.float64(kernel)).sum(0)
    np.testing.assert_allclose(contraction, expected, rtol=1e-4)
