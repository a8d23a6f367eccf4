"""Recurrent cells against their equations in float64, finite differences, and Flax's cell."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.errors import UsageError
from dlcore.nn.recurrent import Cell, GRUCell, LSTMCell, RNNCell
from kernels.lstm import Params, convert
from tests import recurrences
from tests.recurrences import CELLS


def float32(tree):
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), tree)


def assert_close(found, expected, rtol=1e-5, atol=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for array, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(array, right, rtol, atol)


def scan(cell, arguments, lengths=None, **options):
    """`Cell.scan` of what `recurrences.draw` has drawn."""
    variables = {"params": arguments["params"]}
    inputs, carry = arguments["inputs"], arguments["carry"]
    return cell.apply(variables, inputs, carry, lengths, method=Cell.scan, **options)


@pytest.mark.parametrize("name", CELLS)
def test_values_are_those_of_the_equations_and_gradients_those_of_finite_differences(name):
    cell, lengths = CELLS[name], np.array([3, 1, 0])
    arguments, random = recurrences.draw(cell, 3, 3, 2), np.random.default_rng(1)
    expected = recurrences.sequence(cell, **arguments, lengths=lengths)
    # A random weight on every output and on the last carry, so that no path cancels another.
    weights = jax.tree.map(lambda array: random.normal(size=array.shape), expected)

    def weigh(results):
        leaves = zip(jax.tree.leaves(weights), jax.tree.leaves(results), strict=True)
        return sum((weight * result).sum() for weight, result in leaves)

    def weighed(arguments):
        results = scan(cell, arguments, jnp.asarray(lengths))
        return weigh(results), results

    gradients, results = jax.jit(jax.grad(weighed, has_aux=True))(float32(arguments))
    assert_close(results, expected)
    for gradient, array in zip(jax.tree.leaves(gradients), jax.tree.leaves(arguments), strict=True):
        differences = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            value, sums = array[index], []
            for moved in (value + 1e-5, value - 1e-5):
                array[index] = moved
                sums.append(weigh(recurrences.sequence(cell, **arguments, lengths=lengths)))
            array[index] = value
            differences[index] = (sums[0] - sums[1]) / 2e-5
        np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["rnn", "gru", "gru_of_cho", "lstm", "lstm_with_peepholes"])
def test_a_mask_is_on_the_state_that_enters_products_against_time_too(name):
    cell, lengths = CELLS[name], np.array([5, 3, 0])
    arguments = recurrences.draw(cell, 3, 5, 2)
    mask = 2.0 * np.random.default_rng(1).integers(0, 2, (3, 3))
    computed = jax.jit(
        lambda *arguments: scan(cell, *arguments[:2], reverse=True, mask=arguments[2])
    )
    expected = recurrences.sequence(cell, **arguments, lengths=lengths, reverse=True, mask=mask)
    assert_close(computed(float32(arguments), jnp.asarray(lengths), float32(mask)), expected)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_a_cell_taken_step_by_step_is_the_cell_over_the_sequence(name):
    cell = CELLS[name]
    arguments = float32(recurrences.draw(cell, 3, 5, 2))

    @jax.jit
    def stepped(arguments):
        steps = nn.scan(
            lambda cell, carry, x: cell(carry, x),
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        variables = {"params": arguments["params"]}
        return nn.apply(steps, cell)(variables, arguments["carry"], arguments["inputs"])

    carry, outputs = stepped(arguments)
    assert_close((outputs, carry), recurrences.sequence(cell, **arguments))


def test_the_cells_of_the_lectures_have_the_matrices_of_the_slides_and_nothing_else():
    x = jnp.zeros((1, 2))
    for cell, gates in ((RNNCell, 1), (GRUCell, 3), (LSTMCell, 4)):
        cell = cell(5, use_bias=False)
        shapes = jax.eval_shape(cell.init, jax.random.key(0), cell.initial_carry(1), x)["params"]
        assert {name: array.shape for name, array in shapes.items()} == {
            "input_kernel": (2, 5 * gates),
            "recurrent_kernel": (5, 5 * gates),
        }


def test_a_fresh_cell_has_an_orthogonal_recurrent_matrix_for_every_gate_and_no_bias():
    cell = GRUCell(6)
    variables = jax.jit(cell.init)(jax.random.key(0), cell.initial_carry(1), jnp.zeros((1, 3)))
    params = dict(variables["params"])
    gates = np.split(np.asarray(params.pop("recurrent_kernel")), 3, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate.T @ gate, np.eye(6), atol=1e-5)
    assert not np.allclose(gates[0], gates[1])
    assert params.pop("input_kernel").any()
    assert not any(array.any() for array in params.values())


def test_a_cell_of_flaxs_with_the_same_parameters_gives_the_same():
    cell = LSTMCell(3)
    arguments = float32(recurrences.draw(cell, 2, 6, 2))
    theirs = nn.RNN(nn.OptimizedLSTMCell(3), return_carry=True)
    own = {"cell": convert.to_flax(Params(**arguments["params"]))}

    @jax.jit
    def both(arguments, own):
        options = {"initial_carry": arguments["carry"]}
        return scan(cell, arguments), theirs.apply({"params": own}, arguments["inputs"], **options)

    (outputs, carry), (expected_carry, expected) = both(arguments, own)
    assert_close((outputs, carry), (expected, expected_carry), atol=1e-6)


def test_in_bfloat16_outputs_are_bfloat16_and_what_adds_up_over_steps_is_float32():
    # The gates that keep are almost open: a step changes the memory by less than bfloat16 can tell.
    time, keep = 300, 6.0
    inputs = jnp.ones((1, time, 1))
    kept = {"gru": jnp.array([0.0, keep, 1.0]), "lstm": jnp.array([-keep, keep, 1.0, 0.0])}
    cells = {"gru": GRUCell(1, dtype="bfloat16"), "lstm": LSTMCell(1, dtype="bfloat16")}
    for name, cell in cells.items():
        params = {
            "input_kernel": jnp.zeros((1, cell.gates)),
            "recurrent_kernel": jnp.full((1, cell.gates), 0.01),
            "bias": kept[name],
            **({"recurrent_bias": jnp.zeros(1)} if name == "gru" else {}),
        }
        arguments = {"params": params, "inputs": inputs, "carry": cell.initial_carry(1)}
        outputs, carry = jax.jit(lambda arguments, cell=cell: scan(cell, arguments))(arguments)
        memory = carry if name == "gru" else carry[0]
        assert outputs.dtype == jnp.bfloat16
        assert memory.dtype == jnp.float32
        arguments = jax.tree.map(lambda array: np.asarray(array, np.float64), arguments)
        expected, carry = recurrences.sequence(cell, **arguments)
        np.testing.assert_allclose(memory, carry if name == "gru" else carry[0], rtol=0.01)
        np.testing.assert_allclose(outputs[:, -1].astype(jnp.float32), expected[:, -1], rtol=0.02)


def test_a_dtype_that_is_none_is_refused():
    cell = GRUCell(3, dtype="float16")
    with pytest.raises(UsageError, match="computes in float32 or bfloat16, not 'float16'"):
        cell.init(jax.random.key(0), jnp.zeros((1, 3)), jnp.zeros((1, 2)))
