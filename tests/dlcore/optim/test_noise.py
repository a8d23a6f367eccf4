"""Gradient noise: its law, its annealing, and that it repeats."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.optim.noise import add_gradient_noise

SIZE = 20_000
# The paper's eta and gamma, 0.3 and 0.55, are of the variance.
DEVIATION, KAPPA = math.sqrt(0.3), 0.55 / 2


def noise(steps, seed=0):
    """The noise of each step, `[steps, SIZE]`."""
    transformation = add_gradient_noise(DEVIATION, KAPPA, seed)
    zeros = jnp.zeros(SIZE)
    update, state = jax.jit(transformation.update), transformation.init(zeros)
    samples = []
    for _ in range(steps):
        sample, state = update(zeros, state)
        samples.append(np.asarray(sample, np.float64))
    return np.asarray(samples)


def test_it_is_gaussian_with_the_annealed_variance():
    for step, sample in enumerate(noise(4)):
        deviation = math.sqrt(0.3 / (1 + step) ** 0.55)
        # Four standard errors of the mean, the deviation and the share within one deviation.
        assert abs(sample.mean()) < 4 * deviation / math.sqrt(SIZE)
        assert sample.std() == pytest.approx(deviation, rel=4 / math.sqrt(2 * SIZE))
        within = (np.abs(sample) < deviation).mean()
        assert within == pytest.approx(0.6827, abs=4 * 0.47 / math.sqrt(SIZE))


def test_it_is_fresh_at_each_step_and_repeats_with_its_seed():
    first, second = noise(2, seed=1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(SIZE)
    np.testing.assert_array_equal(noise(2, seed=1), [first, second])
    assert abs(np.corrcoef(first, noise(1, seed=2)[0])[0, 1]) < 4 / math.sqrt(SIZE)


def test_it_is_added_to_the_gradient_and_differs_between_parameters():
    transformation = add_gradient_noise(DEVIATION, KAPPA, 0)
    gradients = {"a": jnp.full(SIZE, 2.0), "b": jnp.full(SIZE, -1.0)}
    noisy, _ = transformation.update(gradients, transformation.init(gradients))
    added = jax.tree.map(jnp.subtract, noisy, gradients)
    for sample in added.values():
        assert float(sample.std()) == pytest.approx(math.sqrt(0.3), rel=4 / math.sqrt(2 * SIZE))
    assert abs(np.corrcoef(added["a"], added["b"])[0, 1]) < 4 / math.sqrt(SIZE)


def test_its_state_is_a_plain_number():
    (step,) = add_gradient_noise(DEVIATION, KAPPA, 0).init({"a": jnp.zeros(3)})
    assert step.dtype == jnp.int32
