"""The character LSTM: what its logits depend on, and its state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

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


def test_parameters_have_the_paths_that_published_weights_have():
    model = models.create("char_lstm", vocabulary_size=7, hidden=8)
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, model.initial_carry(1))
    assert {path: array.shape for path, array in flatten_dict(shapes, sep="/").items()} == {
        "params/lstm/layer0/input_kernel": (7, 32),
        "params/lstm/layer0/recurrent_kernel": (8, 32),
        "params/lstm/layer0/bias": (32,),
        "params/lstm/layer1/input_kernel": (8, 32),
        "params/lstm/layer1/recurrent_kernel": (8, 32),
        "params/lstm/layer1/bias": (32,),
        "params/logits/kernel": (8, 7),
        "params/logits/bias": (7,),
    }


def test_in_bfloat16_logits_are_nearly_those_of_float32_and_a_carry_goes_in_as_it_comes_out(small):
    apply, variables, tokens = small
    model = models.create("char_lstm", vocabulary_size=7, hidden=8, dtype="bfloat16")
    carry = model.initial_carry(2)
    with jax.numpy_dtype_promotion("strict"):
        logits, last = jax.jit(model.apply)(variables, tokens, carry)
    exact, _ = apply(tokens, jax.tree.map(lambda array: array.astype(jnp.float32), carry))
    assert logits.dtype == jnp.float32
    assert not (logits == exact).all()
    np.testing.assert_allclose(logits, exact, atol=0.01)
    assert [array.dtype for array in jax.tree.leaves(carry)] == [jnp.float32, jnp.bfloat16] * 2
    assert [array.dtype for array in jax.tree.leaves(last)] == [jnp.float32, jnp.bfloat16] * 2


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
