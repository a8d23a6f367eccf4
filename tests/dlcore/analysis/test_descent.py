"""Trajectories against a loop in NumPy."""

import numpy as np
import optax

from dlcore.analysis.descent import trajectory


def test_it_holds_the_start_and_the_parameters_after_each_step():
    start = np.asarray([[1.0, -2.0]], np.float32)
    # The gradient of step t is (t + 1) w, the rate 0.1.
    path = trajectory(optax.sgd(0.1), lambda w, step: (step + 1.0) * w, start, 3)
    expected = [start, 0.9 * start, 0.9 * 0.8 * start, 0.9 * 0.8 * 0.7 * start]
    np.testing.assert_allclose(path, expected, rtol=1e-6)


def test_the_optimizer_keeps_its_memory():
    optimizer = optax.sgd(1.0, momentum=0.5)
    path = trajectory(optimizer, lambda w, step: 1.0 + 0 * w, np.zeros(1, np.float32), 3)
    np.testing.assert_allclose(path[:, 0], [0.0, -1.0, -2.5, -4.25])
