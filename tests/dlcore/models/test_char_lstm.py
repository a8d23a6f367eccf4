"""The character LSTM: what its logits depend on, and its state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models


@pytest.fixture(scope="module")
def small():
    """A small model, compiled: `(tokens, carry) -> (logits, carry)`; its variables; tokens."""
    model = models.create("char_lstm", vocabulary_size=7, hidden=8)
    tokens = jax.random.randint(jax.random.key(0), (2, 6), 0, 7)
    variables = jax.jit(model.init)(jax.random.key(1), tokens, model.initial_carry(2))
    return jax.jit(functools.partial(model.apply, variables)), variables, tokens


@pytest.fixture
def carry():
    return models.create("char_lstm", hidden=8).initial_carry(2)


@pytest.mark.parametrize(("name", "hidden"), [("char_lstm", 128), ("char_lstm_512", 512)])
def test_the_initial_carry_has_a_zero_state_for_each_of_two_layers(name, hidden):
    carry = models.create(name).initial_carry(3)
    assert jax.tree.map(jnp.shape, carry) == (((3, hidden),) * 2,) * 2
    assert not any(array.any() for array in jax.tree.leaves(carry))


def test_logits_depend_on_this_and_earlier_characters_only(small, carry):
    apply, _, tokens = small
    before, _ = apply(tokens, carry)
    after, _ = apply(tokens.at[:, 3].set((tokens[:, 3] + 1) % 7), carry)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (jnp.abs(before[:, 3:] - after[:, 3:]).max(axis=-1) > 0).all()


def test_a_text_read_in_two_parts_gives_the_logits_of_the_whole(small, carry):
    apply, _, tokens = small
    whole, last = apply(tokens, carry)
    first, middle = apply(tokens[:, :3], carry)
    second, end = apply(tokens[:, 3:], middle)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), end, last)


def test_dropout_is_on_in_training_only(small, carry):
    apply, variables, tokens = small
    model = models.create("char_lstm", vocabulary_size=7, hidden=8, dropout_rate=0.5)
    read = jax.jit(functools.partial(model.apply, variables), static_argnames="train")
    clean, _ = apply(tokens, carry)
    evaluated, _ = read(tokens, carry)
    trained, _ = read(tokens, carry, train=True, rngs={"dropout": jax.random.key(2)})
    np.testing.assert_array_equal(evaluated, clean)
    assert not np.allclose(trained, clean)
