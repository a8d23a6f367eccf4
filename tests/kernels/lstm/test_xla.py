"""The scan is right, and obeys the laws of the operation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import dispatch, testing
from kernels.lstm import cases, lstm, lstm_cell
from kernels.lstm.cases import Case

# One shape for all draws: it is compiled once.
CASE = Case(3, 4, 2, 3, "float32", state=True)
scan = jax.jit(functools.partial(lstm, implementation="xla"), static_argnames="reverse")
cell = jax.jit(functools.partial(lstm_cell, implementation="xla"))
laws = settings(max_examples=10)
seeds = st.integers(0, 10**6)


@pytest.mark.parametrize(
    "case",
    [
        Case(1, 1, 1, 1),
        pytest.param(
            Case(3, 7, 5, 9, "float32", state=True, ragged=True, reverse=True),
            marks=pytest.mark.slow,
        ),
        pytest.param(Case(3, 7, 5, 9, "float32"), marks=pytest.mark.slow),
        pytest.param(
            Case(17, 33, 8, 65, "bfloat16", state=True, ragged=True, recompute=True),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            Case(2, 5, 3, 4, "float32", state=True, reverse=True, recompute=True),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_values_and_gradients_are_right(prove, case):
    prove("xla", case)


@pytest.mark.slow
def test_the_slopes_of_all_steps_are_held_at_once_on_a_cpu_only():
    case = dataclasses.replace(CASE, ragged=True)
    arguments = cases.draw(case)
    run, found = functools.partial(cases.call, case, implementation="xla"), {}
    for kind, ahead in (("cpu", True), ("NVIDIA H200", False)):
        with dispatch.target(kind):
            traced = str(jax.make_jaxpr(run)(arguments))
            found[kind] = run(arguments)
        assert (f"f32[{case.time},{case.batch},{case.hidden}] = tanh" in traced) == ahead
    right = cases.right(case, arguments)
    testing.assert_as_right_as_xla(found["NVIDIA H200"], found["cpu"], right, case.dtype)
    testing.assert_as_right_as_xla(found["cpu"], found["NVIDIA H200"], right, case.dtype)


def test_float64_is_computed_in_float64():
    case = dataclasses.replace(CASE, ragged=True)
    with jax.enable_x64(True):
        arguments = jax.tree.map(
            lambda array: array.astype(jnp.float64) if array.dtype == jnp.float32 else array,
            cases.draw(case),
        )
        found = cases.call(case, arguments, "xla")
    right = cases.right(case, arguments)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), found, right
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_every_product_has_the_precision_that_jax_is_told(recompute):
    case = dataclasses.replace(CASE, recompute=recompute)
    with jax.default_matmul_precision("highest"):
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        lowered = cases.lower(case, "xla", sharding).as_text()
    # x W and h R, the gradients by both factors of each, and both once more to recompute.
    products = 6 + 2 * recompute
    assert lowered.count("stablehlo.dot_general") == products
    assert lowered.count("precision = [HIGHEST, HIGHEST]") == products


def drawn(seed):
    arguments = cases.draw(dataclasses.replace(CASE, ragged=True), seed)
    return arguments.inputs, arguments.params, arguments.first, arguments.lengths


@jax.jit
@jax.grad
def summed_gradient(inputs, *rest):
    outputs, last = scan(inputs, *rest)
    return outputs.sum() + last.cell.sum()


def assert_close(result, expected):
    for array, right in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(array, right, rtol=1e-5, atol=1e-6)


@laws
@given(st.integers(0, CASE.time), seeds)
def test_a_sequence_taken_in_two_parts_is_the_whole(at, seed):
    inputs, params, first, _ = drawn(seed)
    head, between = scan(inputs[:, :at], params, first)
    tail, last = scan(inputs[:, at:], params, between)
    whole = scan(inputs, params, first)
    assert_close((jnp.concatenate([head, tail], axis=1), last), whole)


@laws
@given(seeds)
def test_reverse_is_the_reversed_sequence_in_reversed_order(seed):
    inputs, params, first, _ = drawn(seed)
    outputs, last = scan(inputs[:, ::-1], params, first)
    assert_close((outputs[:, ::-1], last), scan(inputs, params, first, reverse=True))


@laws
@given(st.booleans(), seeds)
def test_a_row_with_a_length_is_the_row_cut_there(reverse, seed):
    inputs, params, first, lengths = drawn(seed)
    outputs, last = scan(inputs, params, first, lengths, reverse=reverse)
    for row, length in enumerate(lengths):
        one = jax.tree.map(lambda array, row=row: array[row : row + 1], (inputs, first))
        cut, end = scan(one[0][:, : int(length)], params, one[1], reverse=reverse)
        assert_close(outputs[row, : int(length)], cut[0])
        np.testing.assert_array_equal(outputs[row, int(length) :], 0)
        assert_close(jax.tree.map(lambda array, row=row: array[row], last), [a[0] for a in end])


@laws
@given(seeds)
def test_what_lies_past_a_rows_end_has_no_effect_and_no_gradient(seed):
    inputs, params, first, lengths = drawn(seed)
    past = np.arange(inputs.shape[1]) >= np.asarray(lengths)[:, None]
    other = jnp.where(past[..., None], 100.0, inputs)
    assert_close(scan(other, params, first, lengths), scan(inputs, params, first, lengths))

    gradient = np.asarray(summed_gradient(other, params, first, lengths))
    np.testing.assert_array_equal(gradient[past], 0)
    assert gradient[~past].all()


@laws
@given(seeds)
def test_a_sequence_is_its_cells_one_after_the_other(seed):
    inputs, params, state, _ = drawn(seed)
    outputs, last = scan(inputs, params, state)
    for step in range(inputs.shape[1]):
        state = cell(inputs[:, step], params, state)
        assert_close(state.output, outputs[:, step])
    assert_close(state, last)
