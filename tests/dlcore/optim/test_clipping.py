"""Clipping at a multiple of the mean norm so far, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcore.optim.clipping import clip_by_average_norm

NORMS = (2.0, 1.0, 6.0, 0.5, 3.0, 30.0, 2.0)


@functools.cache
def compiled(factor):
    transformation = clip_by_average_norm(factor)
    return transformation.init, jax.jit(transformation.update)


def clipped(factor, gradients):
    """Each gradient behind the transformation."""
    init, update = compiled(factor)
    state = init(gradients[0])
    for gradient in gradients:
        updates, state = update(gradient, state)
        yield updates


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_threshold_is_the_factor_times_the_mean_norm_of_all_gradients_before(factor):
    # 3-4-5 triangles over two parameters.
    gradients = [{"a": jnp.full(1, 0.6 * norm), "b": jnp.full(1, -0.8 * norm)} for norm in NORMS]
    for step, updates in enumerate(clipped(factor, gradients)):
        norm = NORMS[step]
        threshold = factor * np.mean(NORMS[:step]) if step else np.inf
        expected = min(norm, threshold)
        np.testing.assert_allclose(updates["a"], [0.6 * expected], rtol=1e-6)
        np.testing.assert_allclose(updates["b"], [-0.8 * expected], rtol=1e-6)


def test_a_factor_below_one_goes_on_moving():
    gradients = [jnp.ones(4)] * 50
    norms = [optax.tree.norm(updates) for updates in clipped(0.5, gradients)]
    np.testing.assert_allclose(norms[1:], 1.0, rtol=1e-6)


@given(norms=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=6), unit=st.floats(0.01, 100.0))
def test_it_knows_no_unit_and_never_lengthens_or_turns_a_gradient(norms, unit):
    direction = np.asarray([0.6, -0.8], np.float32)
    gradients = [np.float32(norm) * direction for norm in norms]
    moves = list(clipped(1.5, gradients))
    scaled = list(clipped(1.5, [np.float32(unit) * gradient for gradient in gradients]))
    np.testing.assert_allclose(scaled, np.float32(unit) * np.asarray(moves), rtol=1e-4)
    shares = np.asarray(moves) / np.asarray(gradients)
    np.testing.assert_allclose(shares[:, 0], shares[:, 1], rtol=1e-5)
    assert (shares <= 1 + 1e-6).all()
    assert (shares > 0).all()


def test_nothing_is_divided_by_zero():
    for updates in clipped(1.0, [jnp.zeros(3), jnp.zeros(3), jnp.ones(3)]):
        np.testing.assert_array_equal(updates, 0)
