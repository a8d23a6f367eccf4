"""The reference is what the equations say, by NumPy in float64 and by differences."""

import jax
import jax.numpy as jnp
import numpy as np

from kernels.lstm import cases, lstm
from kernels.lstm.types import Params, State


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(inputs, params, first, lengths, reverse):
    """Row by row, step by step, gate by gate."""
    batch, time, _ = inputs.shape
    hidden = len(params.recurrent_kernel)
    outputs, cells, last = np.zeros((batch, time, hidden)), first.cell.copy(), first.output.copy()
    for row in range(batch):
        length = time if lengths is None else lengths[row]
        for t in reversed(range(length)) if reverse else range(length):
            sums = (
                inputs[row, t] @ params.input_kernel
                + last[row] @ params.recurrent_kernel
                + params.bias
            )
            i, f, g, o = (sums[gate * hidden : (gate + 1) * hidden] for gate in range(4))
            cells[row] = sigmoid(f) * cells[row] + sigmoid(i) * np.tanh(g)
            last[row] = outputs[row, t] = sigmoid(o) * np.tanh(cells[row])
    return outputs, State(cells, last)


def exact(arguments):
    return jax.tree.map(
        lambda array: np.asarray(array, np.float64),
        (arguments.inputs, arguments.params, arguments.first, arguments.cotangents),
    )


def test_the_reference_is_what_the_equations_say():
    for reverse in (False, True):
        case = cases.Case(3, 5, 4, 3, "float32", state=True, ragged=True, reverse=reverse)
        arguments = cases.draw(case)
        found = cases.right(case, arguments)
        inputs, params, first, _ = exact(arguments)
        outputs, last = by_hand(inputs, params, first, arguments.lengths, reverse)
        np.testing.assert_allclose(found["outputs"], outputs, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found["last"].cell, last.cell, rtol=1e-12)
        np.testing.assert_allclose(found["last"].output, last.output, rtol=1e-12)


def test_its_gradients_are_differences_of_what_the_equations_say():
    case = cases.Case(3, 4, 2, 3, "float32", state=True, ragged=True, reverse=True)
    arguments = cases.draw(case)
    inputs, params, first, (outputs_cotangent, last_cotangent) = exact(arguments)
    operands = (inputs, params, first)

    def loss(operands):
        inputs, params, first = operands
        outputs, last = by_hand(
            inputs, Params(*params), State(*first), arguments.lengths, case.reverse
        )
        parts = zip((outputs, *last), (outputs_cotangent, *last_cotangent), strict=True)
        return sum((value * cotangent).sum() for value, cotangent in parts)

    gradients = cases.right(case, arguments)["gradients"]
    random = np.random.default_rng(1)
    # Along a direction in each of the arrays at a time.
    for number, gradient in enumerate(jax.tree.leaves(gradients)):
        leaves, structure = jax.tree.flatten(operands)
        direction = random.standard_normal(leaves[number].shape)

        def at(amount, number=number, leaves=leaves, structure=structure, direction=direction):
            moved = [*leaves[:number], leaves[number] + amount * direction, *leaves[number + 1 :]]
            return loss(jax.tree.unflatten(structure, moved))

        slope = (at(1e-5) - at(-1e-5)) / 2e-5
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-7)


def test_it_is_computed_in_float32_where_the_inputs_are_narrower():
    case = cases.Case(4, 6, 3, 5, "bfloat16", state=True)
    arguments = cases.draw(case)
    operands = (arguments.inputs, arguments.params, arguments.first)
    outputs, last = lstm(*operands, implementation="reference")
    right = cases.right(case, arguments)
    assert (outputs.dtype, last.cell.dtype, last.output.dtype) == (
        jnp.bfloat16,
        jnp.float32,
        jnp.bfloat16,
    )
    np.testing.assert_allclose(last.cell, right["last"].cell, rtol=1e-5, atol=1e-6)
