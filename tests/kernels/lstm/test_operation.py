"""The operation within JAX's transformations, and what it refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import aot, dispatch, testing
from kernels.lstm import Params, State, cases, explain, lstm

# Four rows for two devices; the dtype is what every implementation takes.
CASE = cases.Case(4, 3, 2, 5, "bfloat16", state=True, ragged=True)
SPLIT, WHOLE = PartitionSpec("rows"), PartitionSpec()
KERNELS = {"lstm_forward", "lstm_backward"}
slow = pytest.mark.slow


# What JAX's interpreters of kernels cannot do is proved by compiling, further down.
LIMITS = {
    ("mosaic_gpu", "test_under_remat"): "it has effects, which remat refuses",
    ("mosaic_gpu", "test_under_pmap"): "it mixes the devices up",
    ("mosaic_gpu", "test_under_shard_map"): "it mixes the devices up",
}

# What the TPU's interpreter that checks memory and races does not know, another one does.
UNCHECKED = ("test_under_vmap", "test_under_remat", "test_under_pmap")


@pytest.fixture(
    params=["xla", pytest.param("mosaic_tpu", marks=slow), pytest.param("mosaic_gpu", marks=slow)]
)
def implementation(request):
    """An implementation that runs here: Pallas kernels are interpreted."""
    name = request.param
    for (limited, test), limit in LIMITS.items():
        if name == limited and request.node.name.startswith(test):
            pytest.skip(f"interpretation: {limit}")
    if name == "xla":
        yield name
        return
    mode = testing.interpreted(name)
    if name == "mosaic_tpu" and request.node.name.startswith(UNCHECKED):
        mode = testing.interpreted_within_transformations()
    with mode:
        yield name


def assert_close(result, expected):
    """Equal but for the order of bfloat16's sums."""
    for array, right in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert array.shape == right.shape
        assert testing.error(array, right) < 4 * float(jnp.finfo(jnp.bfloat16).eps)


def operands(seed=0):
    arguments = cases.draw(CASE, seed)
    return arguments.params, (arguments.inputs, arguments.first, arguments.lengths)


def losses(implementation):
    """`(params, rows) -> the sum of squares of the rows' outputs and last states`."""

    def loss(params, rows):
        outputs, last = lstm(rows[0], params, *rows[1:], implementation=implementation)
        return sum((array.astype(jnp.float32) ** 2).sum() for array in (outputs, *last))

    return loss


def value_and_gradients(loss):
    """The gradients of the parameters, the inputs and the initial state."""

    def run(params, rows):
        def of(params, inputs, first):
            return loss(params, (inputs, first, rows[2]))

        return jax.value_and_grad(of, argnums=(0, 1, 2))(params, *rows[:2])

    return run


# Compiled once for all tests.
expected = jax.jit(value_and_gradients(losses("xla")))


def test_under_vmap(implementation):
    two = [operands(seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *two)
    mapped = jax.jit(jax.vmap(value_and_gradients(losses(implementation))))(*stacked)
    for number, one in enumerate(two):
        assert_close(jax.tree.map(lambda a, number=number: a[number], mapped), expected(*one))


@slow
def test_under_remat(implementation):
    loss = jax.checkpoint(losses(implementation))
    assert_close(jax.jit(value_and_gradients(loss))(*operands()), expected(*operands()))


def test_under_scan(implementation):
    def loss(params, rows):
        inputs, first, _ = rows

        def piece(state, inputs):
            outputs, state = lstm(inputs, params, state, implementation=implementation)
            return state, (outputs.astype(jnp.float32) ** 2).sum()

        # Pieces of one step, one after the other.
        last, sums = jax.lax.scan(piece, first, inputs.swapaxes(0, 1)[:, :, None])
        return sums.sum() + sum((array.astype(jnp.float32) ** 2).sum() for array in last)

    params, (inputs, first, _) = operands()
    everything = jnp.full(CASE.batch, CASE.time, jnp.int32)
    rows = (inputs, first, everything)
    assert_close(jax.jit(value_and_gradients(loss))(params, rows), expected(params, rows))


def shard(loss, check_vma):
    mesh = Mesh(np.array(jax.devices()[:2]), ("rows",))
    return jax.shard_map(
        loss, mesh=mesh, in_specs=(WHOLE, SPLIT), out_specs=WHOLE, check_vma=check_vma
    )


def summed(implementation):
    def loss(params, rows):
        return jax.lax.psum(losses(implementation)(params, rows), "rows")

    return loss


@slow
def test_under_shard_map_and_differentiated_through_it(implementation):
    loss = shard(summed(implementation), check_vma=False)
    assert_close(jax.jit(value_and_gradients(loss))(*operands()), expected(*operands()))


def test_under_shard_map_in_its_checked_mode(implementation):
    loss = shard(summed(implementation), check_vma=True)
    assert_close(jax.jit(value_and_gradients(loss))(*operands()), expected(*operands()))


def test_under_shard_map_and_differentiated_within_it(implementation):
    def step(params, rows):
        value, (gradients, _, _) = value_and_gradients(losses(implementation))(params, rows)
        return jax.lax.psum((value, gradients), "rows")

    value, (gradients, _, _) = expected(*operands())
    assert_close(jax.jit(shard(step, check_vma=False))(*operands()), (value, gradients))


@slow
def test_under_pmap(implementation):
    params, rows = operands()
    split = jax.tree.map(lambda array: array.reshape(2, 2, *array.shape[1:]), rows)

    def step(params, rows):
        value, (gradients, _, _) = value_and_gradients(losses(implementation))(params, rows)
        return jax.lax.psum((value, gradients), "rows")

    result = jax.pmap(step, "rows", in_axes=(None, 0), devices=jax.devices()[:2])(params, split)
    value, (gradients, _, _) = expected(params, rows)
    assert_close(jax.tree.map(lambda array: array[0], result), (value, gradients))


def over(machine, transformation):
    """Loss and gradients within a transformation, lowered for the devices of a machine."""
    name = "mosaic_tpu" if machine.chip.platform == "tpu" else "mosaic_gpu"
    gradients, devices = value_and_gradients(losses(name)), machine.devices
    if transformation in ("vmap", "remat"):
        devices = devices[:1]
    mesh = Mesh(np.array(devices), ("rows",))

    def step(params, rows):
        value, (found, _, _) = gradients(params, rows)
        return jax.lax.psum((value, found), "rows")

    def shaped(leading, spec, array):
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct((*leading, *array.shape), array.dtype, sharding=sharding)

    params, rows = jax.eval_shape(operands)
    leading = {"vmap": (3,), "pmap": (len(devices),)}.get(transformation, ())
    split = SPLIT if transformation in ("shard_map", "pmap") else WHOLE
    params = jax.tree.map(functools.partial(shaped, leading, split if leading else WHOLE), params)
    rows = jax.tree.map(functools.partial(shaped, leading, split), rows)
    transformed = {
        "vmap": jax.jit(jax.vmap(gradients)),
        "remat": jax.jit(value_and_gradients(jax.checkpoint(losses(name)))),
        "shard_map": jax.jit(
            jax.shard_map(
                step, mesh=mesh, in_specs=(WHOLE, SPLIT), out_specs=WHOLE, check_vma=False
            )
        ),
        "pmap": jax.pmap(step, "rows", devices=devices),
    }[transformation]
    with dispatch.target(machine.chip.device_kind):
        return transformed.lower(params, rows)


@slow
@pytest.mark.parametrize("transformation", ["vmap", "remat", "shard_map", "pmap"])
@pytest.mark.parametrize("name", ["tpu:v5e:2x2", "gpu:h200:1x4"])
def test_the_kernels_compile_within_a_transformation(name, transformation):
    machine = aot.target(name)
    if reason := aot.missing(machine.chip.platform):
        pytest.skip(reason)
    program = aot.compile_for(machine, over(machine, transformation))
    # The rule by which Mosaic GPU is mapped gives a kernel another name.
    names = {"batched_body"} if (name, transformation) == ("gpu:h200:1x4", "vmap") else KERNELS
    assert set(program.kernels) == names
    assert len(program.kernels) == 2 + (transformation == "remat")


@slow
@pytest.mark.parametrize("hidden", [64, 300, 512, 2048])
@pytest.mark.parametrize("name", ["tpu:v5e", "gpu:h200"])
def test_the_kernels_compile_where_64_bits_are_the_default(lower, name, hidden):
    case = dataclasses.replace(CASE, hidden=hidden)
    with jax.enable_x64(True):
        program = aot.compile_for(*lower(name, f"mosaic_{name[:3]}", case))
    assert len(program.kernels) == 2


@slow
def test_xla_is_partitioned_by_the_compiler_under_jit():
    mesh = Mesh(np.array(jax.devices()[:2]), ("rows",))
    params, rows = operands()
    rows = jax.device_put(rows, NamedSharding(mesh, SPLIT))
    params = jax.device_put(params, NamedSharding(mesh, WHOLE))
    assert_close(jax.jit(value_and_gradients(losses("xla")))(params, rows), expected(*operands()))


def test_an_initial_state_of_zeros_is_the_default():
    params, (inputs, _, lengths) = operands()
    zeros = State(jnp.zeros((4, 5)), jnp.zeros((4, 5), jnp.bfloat16))
    results = lstm(inputs, params, None, lengths), lstm(inputs, params, zeros, lengths)
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize("implementation_", ["reference", "xla"])
@pytest.mark.parametrize("time", [0, 1])
def test_a_sequence_may_be_empty(implementation_, time):
    params, (inputs, first, _) = operands()
    outputs, last = lstm(inputs[:, :time], params, first, implementation=implementation_)
    assert outputs.shape == (4, time, 5)
    if not time:
        jax.tree.map(np.testing.assert_array_equal, last, first)


@pytest.mark.parametrize(
    ("batch", "features", "hidden"), [(0, 2, 5), (4, 0, 5), (4, 2, 0), (0, 0, 0)]
)
@pytest.mark.parametrize("implementation_", ["auto", "xla"])
def test_every_size_may_be_zero(implementation_, batch, features, hidden):
    gates = 4 * hidden
    params = Params(jnp.ones((features, gates)), jnp.ones((hidden, gates)), jnp.zeros(gates))
    inputs = jnp.ones((batch, 3, features))

    def loss(params):
        outputs, last = lstm(inputs, params, implementation=implementation_)
        return outputs.sum() + last.cell.sum(), outputs

    (_, outputs), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    assert outputs.shape == (batch, 3, hidden)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, params)
    # Without inputs, nor a bias, nor a state, g is zero in every step.
    assert not outputs.any()
    assert explain(batch, 3, hidden, jnp.float32)["xla"] == "serves"


@pytest.mark.parametrize(("implementation_", "time"), [("reference", 3), ("xla", 0), ("xla", 3)])
def test_without_an_initial_state_it_may_be_sharded(implementation_, time):
    params, (inputs, _, _) = operands()

    def outputs(params, inputs):
        return lstm(inputs, params, implementation=implementation_)

    mesh = Mesh(np.array(jax.devices()[:2]), ("rows",))
    specs = {"in_specs": (WHOLE, SPLIT), "out_specs": SPLIT}
    found = jax.jit(jax.shard_map(outputs, mesh=mesh, **specs))(params, inputs[:, :time])
    assert_close(found, outputs(params, inputs[:, :time]))


def test_parameters_in_float32_serve_inputs_in_bfloat16_and_get_float32_gradients():
    params, rows = operands()
    wide = Params(*(array.astype(jnp.float32) for array in params))
    value, (gradients, *_) = value_and_gradients(losses("xla"))(wide, rows)
    assert all(gradient.dtype == jnp.float32 for gradient in gradients)
    assert_close((value, gradients), (lambda v, g: (v, g[0]))(*expected(params, rows)))


@pytest.mark.parametrize("recompute", [False, True])
def test_recomputing_keeps_no_gates(recompute):
    params, (inputs, first, _) = operands()

    def outputs(inputs):
        return lstm(inputs, params, first, implementation="xla", recompute=recompute)[0]

    _, pull_back = jax.vjp(outputs, inputs)
    shapes = [array.shape for array in jax.tree.leaves(pull_back)]
    assert ((CASE.time, CASE.batch, 4 * CASE.hidden) in shapes) != recompute


def refused(message, implementation="auto", **changes):
    arguments = cases.draw(CASE)
    call = {
        "inputs": arguments.inputs,
        "params": arguments.params,
        "initial_state": arguments.first,
        "lengths": arguments.lengths,
    }
    with pytest.raises(ValueError, match=message):
        # The function itself: the shapes of its annotations are checked in tests only.
        lstm.__wrapped__(**(call | changes), implementation=implementation)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("inputs are .batch, time, features., not of shape .3, 2.", {"inputs": jnp.ones((3, 2))}),
        (
            "inputs are float32, bfloat16 or float64, not int32",
            {"inputs": jnp.ones((4, 3, 2), jnp.int32)},
        ),
        ("input_kernel has shape .2, 20.: for inputs .4, 3, 7.", {"inputs": jnp.ones((4, 3, 7))}),
        ("lengths has shape .3,.", {"lengths": jnp.ones(3, jnp.int32)}),
        ("lengths are integers, not float32", {"lengths": jnp.ones(4)}),
        (
            "initial_state.cell has shape .3, 5.",
            {"initial_state": State(jnp.ones((3, 5)), jnp.ones((4, 5)))},
        ),
        ("bias has shape .5,.", {"params": cases.draw(CASE).params._replace(bias=jnp.ones(5))}),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(message, changes):
    refused(message, **changes)


@pytest.mark.parametrize(
    ("kind", "case", "name", "reason"),
    [
        ("cpu", CASE, "mosaic_tpu", "it needs a TPU, not cpu"),
        ("TPU v5 lite", CASE, "mosaic_gpu", "it needs a GPU, not TPU v5 lite"),
        ("TPU v5 lite", dataclasses.replace(CASE, hidden=4096), "mosaic_tpu", "4096 units need"),
        ("NVIDIA H200", dataclasses.replace(CASE, dtype="float32"), "mosaic_gpu", "takes bfloat16"),
    ],
)
def test_what_a_named_implementation_cannot_serve_auto_serves(kind, case, name, reason):
    def shaped(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.dtype(case.dtype))

    gates = 4 * case.hidden
    params = Params(shaped(2, gates), shaped(case.hidden, gates), shaped(gates))
    call = shaped(case.batch, case.time, 2), params
    with dispatch.target(kind):
        with pytest.raises(ValueError, match=f"lstm: {name} cannot serve: .*{reason}"):
            jax.eval_shape(functools.partial(lstm, implementation=name), *call)
        told = explain(case.batch, case.time, case.hidden, case.dtype)
        assert reason in told[name]
        assert told["auto"].startswith("xla: ")
        outputs, _ = jax.eval_shape(lstm, *call)
        assert outputs.shape == (case.batch, case.time, case.hidden)


def test_a_dtype_that_no_call_has_is_not_explained():
    with pytest.raises(ValueError, match="inputs are float32, bfloat16 or float64, not float16"):
        explain(4, 3, 5, jnp.float16)


def test_auto_says_what_it_picks_and_why():
    assert explain(4, 3, 5, jnp.float32) == {
        "reference": "serves",
        "xla": "serves",
        "mosaic_gpu": "it needs a GPU, not cpu",
        "mosaic_tpu": "it needs a TPU, not cpu",
        "auto": "xla: nothing was measured on cpu for float32",
    }


@pytest.mark.parametrize("name", ["reference", "xla"])
@pytest.mark.parametrize(("reverse", "recompute"), [(False, False), (True, True)])
@pytest.mark.parametrize("rubbish", [np.nan, np.inf])
def test_what_lies_behind_a_row_s_end_reaches_no_value_and_no_gradient(
    name, reverse, recompute, rubbish
):
    # The last row has no step at all: its first state is the other thing that no step may read.
    case = dataclasses.replace(CASE, dtype="float32", reverse=reverse, recompute=recompute)
    arguments = cases.draw(case)
    expected = cases.right(case, arguments)
    past = np.arange(case.time) >= np.asarray(arguments.lengths)[:, None]
    inputs = jnp.where(past[..., None], rubbish, arguments.inputs)
    found = cases.call(case, arguments._replace(inputs=inputs), name)
    for array, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(array, right, rtol=1e-4, atol=1e-5)
    first = jax.tree.map(lambda array: array.at[-1].set(rubbish), arguments.first)
    params = cases.call(case, arguments._replace(first=first), name)["gradients"][1]
    for array, right in zip(params, expected["gradients"][1], strict=True):
        np.testing.assert_allclose(array, right, rtol=1e-4, atol=1e-5)


@slow
@pytest.mark.parametrize("name", ["mosaic_tpu", "mosaic_gpu"])
def test_what_lies_behind_a_row_s_end_reaches_no_kernel(name):
    case = dataclasses.replace(CASE, state=False)
    arguments = cases.draw(case)
    past = np.arange(case.time) >= np.asarray(arguments.lengths)[:, None]
    inputs = jnp.where(past[..., None], np.nan, arguments.inputs)
    with testing.interpreted(name):
        found = cases.call(case, arguments._replace(inputs=inputs), name)
    assert_close(found, cases.call(case, arguments, "xla"))
