"""Activation functions against the facts their paper states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.errors import UsageError
from dlcore.nn.activations import activation, scaled_tanh


def test_scaled_tanh_passes_through_plus_and_minus_one():
    # LeCun et al. (1998), appendix A: f(1) = 1 and f(-1) = -1 with these constants.
    np.testing.assert_allclose(scaled_tanh(jnp.array([-1.0, 0.0, 1.0])), [-1, 0, 1], atol=1e-5)


def test_scaled_tanh_bends_most_at_one():
    # The same appendix: the absolute value of the second derivative is largest at +1 and -1.
    x = jnp.linspace(0, 3, 3001)
    bend = jax.vmap(jax.grad(jax.grad(scaled_tanh)))(x)
    assert float(x[jnp.abs(bend).argmax()]) == pytest.approx(1, abs=0.02)


def test_activations_are_found_by_name():
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    np.testing.assert_allclose(activation("relu")(x), np.maximum(x, 0))
    np.testing.assert_allclose(activation("tanh")(x), np.tanh(x), rtol=1e-6)
    np.testing.assert_allclose(activation("sigmoid")(x), 1 / (1 + np.exp(-x)), rtol=1e-6)


def test_an_unknown_activation_is_refused_by_name():
    with pytest.raises(UsageError, match="unknown activation 'swoosh': it is one of relu"):
        activation("swoosh")
