"""AdaGrad's rates when something is added to the gradient."""

import jax.numpy as jnp
import numpy as np
import optax

from dlcore.optim.adagrad import scale_by_gradient_history


def test_what_is_added_is_scaled_too_but_leaves_the_rate_alone():
    added = optax.stateless(lambda updates, params: updates + 10.0 * params)
    transformation = scale_by_gradient_history(added, epsilon=0.25)
    params, state = jnp.asarray([1.0, -2.0]), transformation.init(jnp.zeros(2))
    for gradient, root in (([3.0, 0.0], [9.25, 0.25]), ([-4.0, 1.0], [25.25, 1.25])):
        updates, state = transformation.update(jnp.asarray(gradient), state, params)
        expected = np.add(gradient, [10.0, -20.0]) / np.sqrt(root)
        np.testing.assert_allclose(updates, expected, rtol=1e-6)


def test_alone_it_is_adagrad():
    ours = scale_by_gradient_history(optax.identity(), 1e-6)
    theirs = optax.scale_by_rss(0.0, 1e-6)
    states = [rule.init(jnp.zeros(2)) for rule in (ours, theirs)]
    for gradient in ([3.0, -0.1], [-4.0, 0.2]):
        (mine, states[0]), (other, states[1]) = (
            rule.update(jnp.asarray(gradient), state)
            for rule, state in zip((ours, theirs), states, strict=True)
        )
        np.testing.assert_allclose(mine, other, rtol=1e-6)


def test_the_state_of_what_is_added_goes_on():
    added = optax.trace(0.5)
    transformation = scale_by_gradient_history(added, epsilon=1.0)
    state = transformation.init(jnp.zeros(1))
    for traced, root in ((2.0, 5.0), (3.0, 9.0)):
        updates, state = transformation.update(jnp.asarray([2.0]), state)
        np.testing.assert_allclose(updates, [traced / np.sqrt(root)], rtol=1e-6)
