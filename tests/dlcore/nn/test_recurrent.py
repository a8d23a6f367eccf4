"""The LSTM against its equations in float64, against finite differences and against Flax's cell."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.nn import recurrent
from dlcore.nn.recurrent import LSTM, StackedLSTM, initial_carry, lstm
from kernels import dispatch

SHAPES = [(1, 1, 1, 1), (2, 5, 3, 4), (3, 1, 7, 2), (1, 9, 2, 5)]


def _arguments(batch, time, features, hidden, seed=0):
    """Everything that `lstm` takes, in float64, on the scale of 1 so that every gate is at work."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(batch, time, features)),
        (rng.normal(size=(batch, hidden)), rng.normal(size=(batch, hidden))),
        rng.normal(size=(features, 4 * hidden)),
        rng.normal(size=(hidden, 4 * hidden)),
        rng.normal(size=4 * hidden),
    )


def _float32(tree):
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), tree)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _reference(inputs, carry, input_kernel, recurrent_kernel, bias):
    """The equations of the module, one gate, one example and one step at a time."""
    hidden = bias.size // 4
    outputs = np.zeros((*inputs.shape[:2], hidden))
    cells, last = np.array(carry[0]), np.array(carry[1])
    for row in range(inputs.shape[0]):
        c, h = cells[row], last[row]
        for time in range(inputs.shape[1]):
            i, f, g, o = (
                inputs[row, time] @ input_kernel[:, gate]
                + h @ recurrent_kernel[:, gate]
                + bias[gate]
                for gate in (slice(k * hidden, (k + 1) * hidden) for k in range(4))
            )
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
            outputs[row, time] = h
        cells[row], last[row] = c, h
    return outputs, (cells, last)


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_carry_follow_the_equations(shape):
    arguments = _arguments(*shape)
    computed = jax.jit(lstm)(*_float32(arguments))
    expected = _reference(*arguments)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), computed, expected
    )


def test_the_gradient_of_every_argument_is_that_of_finite_differences():
    arguments = _arguments(2, 4, 3, 2)
    rng = np.random.default_rng(1)
    # A random weight on every output and on the last carry, so that no path cancels another.
    weights = jax.tree.map(lambda array: rng.normal(size=array.shape), _reference(*arguments))

    def weigh(results):
        return sum(
            (weight * result).sum()
            for weight, result in zip(
                jax.tree.leaves(weights), jax.tree.leaves(results), strict=True
            )
        )

    with jax.enable_x64(True):
        gradients = jax.grad(lambda arguments: weigh(lstm(*arguments)))(
            jax.tree.map(jnp.asarray, arguments)
        )
    for gradient, array in zip(jax.tree.leaves(gradients), jax.tree.leaves(arguments), strict=True):
        differences = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + 1e-6
            above = weigh(_reference(*arguments))
            array[index] = value - 1e-6
            below = weigh(_reference(*arguments))
            array[index] = value
            differences[index] = (above - below) / 2e-6
        np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


def test_two_chunks_with_the_carry_handed_over_equal_one_long_sequence():
    inputs, carry, *parameters = _float32(_arguments(2, 9, 3, 4))
    whole, last = lstm(inputs, carry, *parameters)
    first, middle = lstm(inputs[:, :4], carry, *parameters)
    second, end = lstm(inputs[:, 4:], middle, *parameters)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), end, last)


def test_a_layer_with_the_parameters_of_flaxs_cell_gives_its_outputs():
    features, hidden = 3, 4
    inputs = jax.random.normal(jax.random.key(0), (2, 6, features))
    cell = nn.OptimizedLSTMCell(hidden)
    theirs = nn.RNN(cell, return_carry=True)
    variables = jax.jit(theirs.init)(jax.random.key(1), inputs)
    own = variables["params"]["cell"]
    ours = {
        "input_kernel": jnp.concatenate([own[f"i{gate}"]["kernel"] for gate in "ifgo"], axis=1),
        "recurrent_kernel": jnp.concatenate([own[f"h{gate}"]["kernel"] for gate in "ifgo"], axis=1),
        "bias": jnp.concatenate([own[f"h{gate}"]["bias"] for gate in "ifgo"]),
    }
    (carry,) = initial_carry(2, hidden, layers=1)
    computed = jax.jit(LSTM(hidden).apply)({"params": ours}, inputs, carry)
    (cells, last), outputs = jax.jit(theirs.apply)(variables, inputs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), computed, (outputs, (cells, last))
    )


def test_a_fresh_layer_has_an_orthogonal_recurrent_matrix_for_every_gate():
    inputs, hidden = jnp.zeros((1, 2, 3)), 6
    parameters = jax.jit(LSTM(hidden).init)(
        jax.random.key(0), inputs, initial_carry(1, hidden, layers=1)[0]
    )["params"]
    gates = np.split(np.asarray(parameters["recurrent_kernel"]), 4, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate.T @ gate, np.eye(hidden), atol=1e-5)
    assert not np.allclose(gates[0], gates[1])
    assert not parameters["bias"].any()


def test_dropout_zeroes_outputs_but_never_what_a_step_hands_to_the_next():
    model = StackedLSTM(hidden=8, layers=1, dropout_rate=0.5)
    inputs = jax.random.normal(jax.random.key(0), (3, 20, 2))
    carry = initial_carry(3, 8, layers=1)
    variables = jax.jit(model.init)(jax.random.key(1), inputs, carry)
    apply = jax.jit(model.apply, static_argnames="train")
    clean, clean_carry = apply(variables, inputs, carry)
    noisy, noisy_carry = apply(
        variables, inputs, carry, train=True, rngs={"dropout": jax.random.key(2)}
    )
    kept = np.asarray(noisy) != 0
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_allclose(noisy, np.where(kept, 2 * clean, 0), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, noisy_carry, clean_carry)


def test_a_stack_reads_the_layer_below():
    model = StackedLSTM(hidden=4, layers=2)
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 3))
    carry = initial_carry(2, 4, layers=2)
    variables = jax.jit(model.init)(jax.random.key(1), inputs, carry)
    outputs, last = jax.jit(model.apply)(variables, inputs, carry)
    bottom, top = (variables["params"][f"layer{layer}"] for layer in range(2))
    below, bottom_carry = lstm(inputs, carry[0], **bottom)
    expected, top_carry = lstm(below, carry[1], **top)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), last, (bottom_carry, top_carry)
    )


def test_the_initial_carry_is_zero_and_may_be_donated():
    carry = recurrent.initial_carry(3, 5, layers=2)
    assert [array.shape for array in jax.tree.leaves(carry)] == [(3, 5)] * 4
    assert not any(array.any() for array in jax.tree.leaves(carry))
    moved = jax.jit(lambda carry: jax.tree.map(lambda x: x + 1, carry), donate_argnums=0)(carry)
    assert all((array == 1).all() for array in jax.tree.leaves(moved))


@pytest.mark.parametrize(("named", "calls"), [("mosaic_tpu", 2), ("xla", 0), ("auto", 0)])
def test_every_layer_of_a_stack_calls_the_named_implementation(named, calls):
    model, inputs, carry = StackedLSTM(4, 2), jnp.ones((1, 3, 2)), initial_carry(1, 4, 2)
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs, carry)
    with dispatch.target("TPU v5 lite"), dispatch.using(named):
        traced = jax.make_jaxpr(model.apply)(variables, inputs, carry)
    assert str(traced).count("pallas_call[") == calls
