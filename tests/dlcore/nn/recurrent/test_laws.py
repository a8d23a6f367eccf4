"""Laws of layers over padded batches: padding, segments of a sequence, and its two directions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore.nn.recurrent import Stack
from tests.recurrences import CELLS

SHORT, LONG, ROWS = 4, 6, 3
# The scan with one array to carry and with two, and the operation of `kernels.lstm`.
KINDS = ["gru", "lstm_with_peepholes", "lstm"]

lengths_up_to = functools.partial(st.lists, min_size=ROWS, max_size=ROWS)
laws = settings(max_examples=10)


@functools.cache
def stack(kind):
    return Stack(CELLS[kind], bidirectional=True, dropout_rate=0.3)


@functools.cache
def draw(kind, seed):
    """Parameters, inputs `[ROWS, LONG, 2]`, and a carry."""
    random, model = np.random.default_rng(seed), stack(kind)
    inputs = np.zeros((ROWS, LONG, 2), np.float32)
    shapes = (
        jax.eval_shape(model.init, jax.random.key(0), inputs)["params"],
        inputs,
        model.initial_carry(ROWS),
    )
    return jax.tree.map(lambda shape: np.float32(random.normal(0, 0.7, shape.shape)), shapes)


@functools.cache
def compiled(kind):
    """`(arguments, lengths) -> outputs, last carry, and gradients`, in training."""

    def loss(arguments, lengths):
        params, inputs, carry = arguments
        rngs = {"dropout": jax.random.key(3)}
        outputs, last = stack(kind).apply(
            {"params": params}, inputs, carry, lengths, train=True, rngs=rngs
        )
        # Weights, so that no unit's path cancels another's.
        losses = [
            (jnp.cos(jnp.arange(array.shape[-1])) * array).sum()
            for array in (outputs, *jax.tree.leaves(last))
        ]
        return sum(losses), (outputs, last)

    @jax.jit
    def run(arguments, lengths):
        (_, (outputs, last)), gradients = jax.value_and_grad(loss, has_aux=True)(arguments, lengths)
        return outputs, last, gradients

    return run


@functools.cache
def evaluated(kind):
    """`(params, inputs, carry, lengths) -> outputs, last carry`."""
    model = stack(kind)
    return jax.jit(lambda params, *arguments: model.apply({"params": params}, *arguments))


def assert_close(found, expected):
    for array, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(array, right, rtol=1e-4, atol=1e-5)


def behind(lengths, time):
    """Which positions are behind their row's end."""
    return np.arange(time) >= np.array(lengths)[:, None]


@pytest.mark.parametrize("kind", KINDS)
@laws
@given(lengths=lengths_up_to(st.integers(0, SHORT)), seed=st.integers(0, 3))
def test_padding_and_what_is_in_it_change_no_output_carry_or_gradient(kind, lengths, seed):
    (params, inputs, carry), of = draw(kind, seed), jnp.array(lengths)
    clean = np.where(behind(lengths, LONG)[..., None], 0, inputs)
    spoiled = np.where(behind(lengths, LONG)[..., None], np.nan, inputs)
    outputs, last, gradients = compiled(kind)((params, clean[:, :SHORT], carry), of)
    longer, longer_last, longer_gradients = compiled(kind)((params, spoiled, carry), of)
    assert_close(longer[:, :SHORT], outputs)
    assert_close(longer_last, last)
    assert_close(longer_gradients[::2], gradients[::2])
    assert_close(longer_gradients[1][:, :SHORT], gradients[1])
    assert not np.asarray(longer)[behind(lengths, LONG)].any()
    assert not np.asarray(longer_gradients[1])[behind(lengths, LONG)].any()


@pytest.mark.parametrize("kind", KINDS)
@laws
@given(
    lengths=lengths_up_to(st.integers(0, LONG)), cut=st.integers(0, LONG), seed=st.integers(0, 3)
)
def test_a_carry_handed_from_segment_to_segment_gives_one_long_run(kind, lengths, cut, seed):
    (params, inputs, carry), lengths = draw(kind, seed), np.array(lengths)

    def forward(inputs, carry, lengths):
        """The layer that reads forward, alone."""
        outputs, ((last, _),) = evaluated(kind)(params, inputs, carry, jnp.asarray(lengths))
        return outputs[..., :3], last

    whole, last = forward(inputs, carry, lengths)
    first, middle = forward(inputs, carry, np.minimum(lengths, cut))
    # What comes after the cut comes first, and what was before it is behind the rows' ends.
    rolled = np.roll(inputs, -cut, axis=1)
    second, end = forward(rolled, ((middle, carry[0][1]),), np.maximum(lengths - cut, 0))
    assert_close(first + np.roll(second, cut, axis=1), whole)
    assert_close(end, last)


@pytest.mark.parametrize("kind", KINDS)
@laws
@given(lengths=lengths_up_to(st.integers(0, LONG)), seed=st.integers(0, 3))
def test_rows_turned_within_their_lengths_are_read_by_the_other_direction(kind, lengths, seed):
    params, inputs, ((ahead, back),) = draw(kind, seed)
    turned = {"layer0": params["layer0_reverse"], "layer0_reverse": params["layer0"]}

    def turn(rows):
        return np.stack(
            [
                np.concatenate([row[:length][::-1], row[length:]])
                for row, length in zip(np.asarray(rows), lengths, strict=True)
            ]
        )

    of, read = jnp.array(lengths), evaluated(kind)
    outputs, ((ahead_last, back_last),) = read(params, inputs, ((ahead, back),), of)
    others, ((back_expected, ahead_expected),) = read(turned, turn(inputs), ((back, ahead),), of)
    assert_close(outputs, np.roll(turn(others), 3, axis=-1))
    assert_close((ahead_last, back_last), (ahead_expected, back_expected))


def test_an_empty_row_keeps_its_carry_even_one_that_is_not_finite():
    for kind in KINDS:
        params, inputs, carry = draw(kind, 0)
        carry = jax.tree.map(
            lambda array: np.where(np.arange(3)[:, None] == 1, np.nan, array), carry
        )
        of = jnp.array([4, 0, 2])
        outputs, last, (gradients, of_inputs, _) = compiled(kind)((params, inputs, carry), of)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), last, carry)
        assert not outputs[1].any()
        for array in (*jax.tree.leaves(gradients), of_inputs):
            assert np.isfinite(array).all(), kind
