"""Stacks of recurrent layers: what layers hand up and on, dropout, and how they are called."""

import functools
import itertools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dlcore.errors import UsageError
from dlcore.nn.recurrent import GRUCell, LSTMCell, RNNCell, Stack
from dlcore.parallel import AXIS
from kernels import dispatch
from tests import recurrences

INPUTS = jax.random.normal(jax.random.key(0), (3, 5, 2))
LENGTHS = jnp.array([5, 3, 0])


def assert_close(found, expected, atol=1e-6):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found, expected)


def initialized(stack, inputs=INPUTS, seed=1):
    """Variables whose numbers are all at work, without compiling the initializers."""
    shapes = jax.eval_shape(stack.init, jax.random.key(0), inputs)
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(random.normal(0, 0.5, shape.shape), jnp.float32), shapes
    )


def in_training(stack, variables, *arguments, seed=2):
    apply = jax.jit(functools.partial(stack.apply, train=True))
    return apply(variables, *arguments, rngs={"dropout": jax.random.key(seed)})


def test_a_layer_reads_the_one_below_and_in_both_directions_both_of_its_cells():
    stack = Stack(GRUCell(3), layers=2, bidirectional=True)
    variables = initialized(stack)
    x, expected = np.asarray(INPUTS, np.float64), []
    for layer in range(2):
        sides = [
            recurrences.sequence(
                stack.cell,
                jax.tree.map(np.float64, variables["params"][f"layer{layer}{suffix}"]),
                x,
                np.zeros((3, 3)),
                lengths=LENGTHS,
                reverse=bool(suffix),
            )
            for suffix in ("", "_reverse")
        ]
        x = np.concatenate([outputs for outputs, _ in sides], axis=-1)
        expected.append(tuple(carry for _, carry in sides))
    found = jax.jit(stack.apply)(variables, INPUTS, None, LENGTHS)
    assert_close(found, (x, tuple(expected)))


def test_a_stack_runs_within_jit_and_a_scan_over_segments_and_is_compiled_once():
    stack = Stack(LSTMCell(3, peepholes=True), layers=2)
    variables = initialized(stack)
    traces = []

    @jax.jit
    def read(carry, inputs, lengths):
        traces.append(1)
        segments = inputs.reshape(3, 2, 2, 2).swapaxes(0, 1)

        def step(carry, segment):
            outputs, carry = stack.apply(variables, segment, carry, lengths)
            return carry, outputs

        return jax.lax.scan(step, carry, segments)

    carry = stack.initial_carry(3)
    for lengths in ([2, 1, 0], [0, 2, 2]):
        carry, _ = read(carry, INPUTS[:, :4], jnp.array(lengths))
    assert len(traces) == 1


def test_the_initial_carry_is_zero_in_the_dtypes_of_the_last_one_and_may_be_donated():
    cells = (RNNCell(3), GRUCell(3), LSTMCell(3), LSTMCell(3, peepholes=True))
    for cell, dtype in itertools.product(cells, ("float32", "bfloat16")):
        stack = Stack(cell.clone(dtype=dtype), bidirectional=True)
        first = stack.initial_carry(3)
        with jax.numpy_dtype_promotion("strict"):
            (outputs, last), _ = jax.eval_shape(stack.init_with_output, jax.random.key(0), INPUTS)
        assert outputs.dtype == dtype
        assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == jax.tree.map(
            lambda x: (x.shape, x.dtype), last
        )
        assert not any(array.any() for array in jax.tree.leaves(first))
    moved = jax.jit(lambda carry: jax.tree.map(lambda x: x + 1, carry), donate_argnums=0)(first)
    assert all((array == 1).all() for array in jax.tree.leaves(moved))


@pytest.mark.parametrize(("named", "calls"), [("mosaic_tpu", 4), ("xla", 0), ("auto", 0)])
def test_every_lstm_of_a_stack_calls_the_named_implementation_with_lengths_either_way(named, calls):
    stack = Stack(LSTMCell(4, dtype="bfloat16"), layers=2, bidirectional=True)
    variables = jax.eval_shape(stack.init, jax.random.key(0), INPUTS)
    with dispatch.target("TPU v5 lite"), dispatch.using(named):
        traced = jax.make_jaxpr(stack.apply)(variables, INPUTS, None, LENGTHS)
    assert str(traced).count("pallas_call[") == calls


def test_dropout_zeroes_outputs_but_never_what_a_step_hands_to_the_next():
    stack = Stack(LSTMCell(8), dropout_rate=0.5)
    inputs = jax.random.normal(jax.random.key(0), (3, 20, 2))
    variables = initialized(stack, inputs)
    clean, clean_carry = jax.jit(stack.apply)(variables, inputs)
    noisy, noisy_carry = in_training(stack, variables, inputs)
    kept = np.asarray(noisy) != 0
    assert 0.4 < kept.mean() < 0.6
    # Every step has a mask of its own.
    assert (kept != kept[:, :1]).any()
    np.testing.assert_allclose(noisy, np.where(kept, 2 * clean, 0), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, noisy_carry, clean_carry)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_variational_dropout_has_one_mask_of_outputs_and_one_of_states_for_all_steps(name):
    cell = recurrences.CELLS[name]
    stack = Stack(cell, dropout_rate=0.5, variational=True)
    variables = initialized(stack)
    params = jax.tree.map(lambda array: np.asarray(array, np.float64), variables["params"])
    found = []
    outputs, (carry,) = in_training(stack, variables, INPUTS)
    for row in range(3):
        alone = np.asarray(INPUTS[row : row + 1], np.float64)
        zero = jax.tree.map(np.zeros_like, jax.tree.map(lambda x: x[:1], cell.initial_carry(1)))
        of_row = jax.tree.map(lambda array, row=row: np.asarray(array[row]), carry)
        for bits in itertools.product((0.0, 2.0), repeat=3):
            mask = np.array([bits])
            expected, last = recurrences.sequence(cell, params["layer0"], alone, zero, mask=mask)
            last = jax.tree.map(lambda array: array[0], last)
            if all(map(np.allclose, jax.tree.leaves(of_row), jax.tree.leaves(last))):
                found.append(bits)
                kept = np.asarray(outputs[row]) != 0
                assert (kept == kept[:1]).all()
                np.testing.assert_allclose(outputs[row], 2 * kept * expected[0], rtol=1e-4)
    # Each row's state is that of exactly one mask, and not all rows have the same.
    assert len(found) == 3
    assert len(set(found)) > 1
    # Evaluation drops nothing.
    evaluated, plain = (
        str(jax.make_jaxpr(some.apply)(variables, INPUTS)) for some in (stack, Stack(cell))
    )
    assert evaluated == plain


def test_each_direction_and_layer_has_a_variational_mask_of_its_own():
    stack = Stack(RNNCell(30), layers=2, bidirectional=True, dropout_rate=0.5, variational=True)
    # Without inputs, h after a step is tanh(mask * h R); with R the identity, 0 where h is dropped.
    shapes = jax.eval_shape(stack.init, jax.random.key(0), INPUTS)["params"]
    params = {
        name: jax.tree.map(lambda shape: jnp.zeros(shape.shape), own)
        | {"recurrent_kernel": jnp.eye(30)}
        for name, own in shapes.items()
    }
    first = jax.tree.map(jnp.ones_like, stack.initial_carry(3))
    _, last = in_training(stack, {"params": params}, INPUTS, first)
    masks = [np.asarray(array) != 0 for array in jax.tree.leaves(last)]
    for one, other in itertools.combinations(masks, 2):
        assert (one != other).any()
    assert 0.3 < np.mean(masks) < 0.7


def test_rows_on_two_devices_give_the_values_and_gradients_of_one():
    stack = Stack(GRUCell(3), dropout_rate=0.5, variational=True)
    inputs = jax.random.normal(jax.random.key(1), (4, 4, 2))
    variables, lengths = initialized(stack, inputs), jnp.array([4, 0, 1, 3])

    @jax.value_and_grad
    def loss(variables, inputs, lengths):
        rngs = {"dropout": jax.random.key(0)}
        outputs, _ = stack.apply(variables, inputs, None, lengths, train=True, rngs=rngs)
        return (outputs**2).sum()

    def shared(*arguments):
        value, gradients = loss(*arguments)
        # The variables are the same on every device, so that JAX has summed their gradients.
        return jax.lax.psum(value, AXIS), gradients

    mesh = jax.sharding.Mesh(jax.devices()[:2], (AXIS,))
    rows, whole = PartitionSpec(AXIS), PartitionSpec()
    split = jax.shard_map(shared, mesh=mesh, in_specs=(whole, rows, rows), out_specs=whole)
    arguments = (variables, inputs, lengths)
    assert_close(jax.jit(split)(*arguments), jax.jit(loss)(*arguments), 1e-4)


def test_a_carry_or_lengths_that_do_not_fit_are_refused(monkeypatch):
    # The shapes in the annotations would say so first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    stack = Stack(RNNCell(3), layers=2)
    carry = Stack(RNNCell(3)).initial_carry(3)
    with pytest.raises(UsageError, match="2 layers have a carry each, not 1 together"):
        stack.init(jax.random.key(0), INPUTS, carry)
    with pytest.raises(UsageError, match=r"3 rows have a length each, not lengths \(1,\)"):
        stack.init(jax.random.key(0), INPUTS, None, jnp.array([1]))
