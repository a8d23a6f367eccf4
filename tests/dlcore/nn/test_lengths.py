"""What is real of padded sequences."""

import jax
import jax.numpy as jnp
import numpy as np

from dlcore.nn import lengths


def test_a_step_is_real_before_its_rows_end():
    real = lengths.real(jnp.array([0, 2, 3]), 3)
    np.testing.assert_array_equal(real, [[0, 0, 0], [1, 1, 0], [1, 1, 1]])


def test_behind_a_rows_end_there_are_zeros_and_no_gradient_whatever_stands_there():
    x = jnp.array([[[1.0, 2.0], [jnp.nan, jnp.inf]]])
    within = lengths.within(x, jnp.array([1]))
    np.testing.assert_array_equal(within, [[[1, 2], [0, 0]]])
    gradient = jax.grad(lambda x: jnp.square(lengths.within(x, jnp.array([1]))).sum())(x)
    np.testing.assert_array_equal(gradient, [[[2, 4], [0, 0]]])
    assert lengths.within(x, None) is x
