"""The public functions: transformations, devices, chains of blocks, refusals."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from kernels import dispatch, testing
from kernels.conv_bn_relu import (
    Normalization,
    cases,
    conv_bn_relu,
    conv_bn_relu_inference,
    conv_stats,
    explain,
    normalize,
)
from kernels.conv_bn_relu.cases import Case

CASE = Case(4, 5, 3, 3, 6, 3, 1, "float32", residual=True, statistics=True)
SPLIT, WHOLE = PartitionSpec("images"), PartitionSpec()


def block(implementation="xla", axis_name=None):
    """Value, statistics and gradients of a scalar that depends on everything."""

    def loss(operands, cotangents):
        x, kernel, scale, bias, residual, _ = operands
        y, statistics = conv_bn_relu(
            x,
            kernel,
            scale,
            bias,
            padding=CASE.padding,
            residual=residual,
            axis_name=axis_name,
            implementation=implementation,
        )
        return jnp.vdot(y, cotangents[0]), (y, statistics)

    return jax.value_and_grad(loss, has_aux=True)


def assert_close(result, expected):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), result, expected
    )


def split_over_devices(step):
    """`step(operands, cotangents)` over two halves of the batch, and the sums over both."""

    def run(operands, cotangents):
        (value, (y, statistics)), gradients = step(operands, cotangents)
        shared = {name: getattr(gradients, name) for name in ("kernel", "scale", "bias")}
        value, shared = jax.lax.psum((value, shared), "images")
        return value, y, statistics, gradients.x, gradients.residual, shared

    return run


# Compiled once for all tests.
compiled = jax.jit(block())


def whole(operands, cotangents):
    (value, (y, statistics)), gradients = compiled(operands, cotangents)
    shared = {name: getattr(gradients, name) for name in ("kernel", "scale", "bias")}
    return value, y, statistics, gradients.x, gradients.residual, shared


def test_under_vmap_each_batch_has_its_own_statistics():
    arguments = [cases.draw(CASE, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *arguments)
    result = jax.jit(jax.vmap(block()))(stacked.operands, stacked.cotangents)
    apart = [compiled(drawn.operands, drawn.cotangents) for drawn in arguments]
    assert_close(result, jax.tree.map(lambda *arrays: jnp.stack(arrays), *apart))


@pytest.mark.slow
def test_under_vmap_an_axis_may_be_named():
    operands, cotangents = cases.draw(CASE)

    def halves(array):
        return array.reshape(2, -1, *array.shape[1:])

    axes = cases.Operands(0, None, None, None, 0, None)
    split = operands._replace(x=halves(operands.x), residual=halves(operands.residual))
    given = halves(cotangents[0]), cotangents[1]

    def inside(operands, cotangents):
        run = split_over_devices(block(axis_name="images"))
        return jax.vmap(run, (axes, (0, None)), axis_name="images")(operands, cotangents)

    def outside(operands):
        def one(operands, cotangents):
            return block(axis_name="images")(operands, cotangents)[0][0]

        values = jax.vmap(one, (axes, (0, None)), axis_name="images")(operands, given)
        return values.sum()

    *_, shared = jax.tree.map(lambda array: array[0], jax.jit(inside)(split, given))
    expected = whole(operands, cotangents)
    assert_close(shared, expected[-1])
    found = jax.jit(jax.grad(outside))(split)._asdict()
    assert_close({name: found[name] for name in shared}, expected[-1])
    assert_close(found["x"].reshape(operands.x.shape), expected[3])


def test_under_remat():
    operands, cotangents = cases.draw(CASE)

    def loss(operands):
        x, kernel, scale, bias, residual, _ = operands
        y, _ = conv_bn_relu(x, kernel, scale, bias, padding=CASE.padding, residual=residual)
        return jnp.vdot(y, cotangents[0])

    result = jax.jit(jax.value_and_grad(jax.checkpoint(loss)))(operands)
    assert_close(result, jax.jit(jax.value_and_grad(loss))(operands))


@pytest.mark.parametrize("checked", [False, True])
def test_under_shard_map_statistics_are_those_of_the_whole_batch(checked):
    operands, cotangents = cases.draw(CASE)
    mesh = Mesh(np.array(jax.devices()[:2]), ("images",))
    specs = cases.Operands(SPLIT, WHOLE, WHOLE, WHOLE, SPLIT, None)

    def run(operands, cotangents):
        (value, (y, statistics)), gradients = block(axis_name="images")(operands, cotangents)
        shared = {name: getattr(gradients, name) for name in ("kernel", "scale", "bias")}
        # In the checked mode what is the same on every device has its gradient summed already.
        value, shared = jax.lax.psum((value, {} if checked else shared), "images")
        shared = shared or {name: getattr(gradients, name) for name in ("kernel", "scale", "bias")}
        return value, y, statistics, gradients.x, gradients.residual, shared

    sharded = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(specs, (SPLIT, WHOLE)),
        out_specs=(WHOLE, SPLIT, WHOLE, SPLIT, SPLIT, WHOLE),
        check_vma=checked,
    )
    assert_close(jax.jit(sharded)(operands, cotangents), whole(operands, cotangents))


def test_under_pmap_statistics_are_those_of_the_whole_batch():
    operands, cotangents = cases.draw(CASE)

    def halves(array):
        return array.reshape(2, -1, *array.shape[1:])

    axes = cases.Operands(0, None, None, None, 0, None)
    split = operands._replace(x=halves(operands.x), residual=halves(operands.residual))
    run = jax.pmap(
        split_over_devices(block(axis_name="images")),
        "images",
        in_axes=(axes, (0, None)),
        devices=jax.devices()[:2],
    )
    value, y, statistics, x, residual, shared = run(split, (halves(cotangents[0]), cotangents[1]))
    joined = (array.reshape(-1, *array.shape[2:]) for array in (y, x, residual))
    first = jax.tree.map(lambda array: array[0], (value, statistics, shared))
    expected = whole(operands, cotangents)
    assert_close(
        (*first, *joined), (expected[0], expected[2], expected[5], *expected[1:5:2], expected[4])
    )


def test_a_chain_of_pending_blocks_is_the_chain_of_finished_ones():
    random = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    x, first, second = normal(2, 4, 4, 3), normal(1, 1, 3, 5), normal(3, 3, 5, 4)
    affines = (normal(5), normal(5)), (normal(4), normal(4))
    cotangent = normal(2, 4, 4, 4)

    def finished(x, first, second, affines):
        y, _ = conv_bn_relu(x, first, *affines[0], implementation="xla")
        y, _ = conv_bn_relu(y, second, *affines[1], implementation="xla")
        return jnp.vdot(y, cotangent)

    def pending(x, first, second, affines):
        raw, statistics = conv_stats(x, first, implementation="xla")
        normalization = Normalization(*statistics, *affines[0])
        raw, statistics = conv_stats(raw, second, normalization, implementation="xla")
        y = normalize(raw, Normalization(*statistics, *affines[1]), implementation="xla")
        return jnp.vdot(y, cotangent)

    operands = x, first, second, affines
    assert_close(
        *(jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(*operands) for f in (pending, finished))
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inference_with_the_batch_s_own_statistics_is_the_training_block(dtype):
    drawn = cases.draw(Case(2, 7, 5, 3, 4, 3, 2, dtype, residual=True))
    x, kernel, scale, bias, residual, _ = drawn.operands
    options = {"strides": 2, "padding": ((1, 1), (1, 1)), "residual": residual}
    y, statistics = conv_bn_relu(x, kernel, scale, bias, **options)
    folded = conv_bn_relu_inference(x, kernel, scale, bias, *statistics, **options)
    assert folded.dtype == y.dtype == x.dtype
    # The kernel is rounded once more.
    assert testing.error(folded, y) < 3 * float(jnp.finfo(dtype).eps)


def test_a_constant_channel_is_its_bias():
    x, kernel, scale, bias, *_ = cases.draw(Case(2, 3, 3, 2, 3, dtype="float32", constant=True))[0]
    y, statistics = conv_bn_relu(x, kernel, scale, bias, activation="none")
    assert statistics.variance[0] == 0
    np.testing.assert_array_equal(y[..., 0], jnp.full(y.shape[:3], bias[0]))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", ["xla", pytest.param("mosaic_tpu", marks=pytest.mark.slow)])
def test_the_statistics_are_those_of_what_is_stored(name, size):
    x, kernel, *_ = cases.draw(Case(4, 8, 8, 5, 3, size, mean=30.0))[0]
    with testing.interpreted(name) if name != "xla" else contextlib.nullcontext():
        raw, statistics = jax.jit(functools.partial(conv_stats, implementation=name))(x, kernel)
    exact = np.asarray(raw, np.float64)
    np.testing.assert_allclose(statistics.mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(statistics.variance, exact.var((0, 1, 2)), rtol=1e-5)


def test_a_nan_stays_in_its_channel():
    x, _, scale, bias, *_ = cases.draw(Case(2, 3, 3, 4, 4, dtype="float32"))[0]
    x = x.at[0, 1, 1, 2].set(jnp.nan)
    mean = x.mean((0, 1, 2))
    normalization = Normalization(mean, jnp.square(x - mean).mean((0, 1, 2)), scale, bias)
    y, pull_back = jax.vjp(lambda x: normalize(x, normalization), x)
    for array in (y, *pull_back(jnp.ones_like(y))):
        assert jnp.isnan(array[..., 2]).any()
        assert jnp.isfinite(array[..., jnp.array([0, 1, 3])]).all()


def test_a_pass_for_the_gradient_of_the_statistics_is_taken_only_where_it_is_asked_for():
    operands, (along_y, along_statistics) = cases.draw(CASE)

    def passes(asked):
        def loss(x):
            _, kernel, scale, bias, *_ = operands
            y, statistics = conv_bn_relu(x, kernel, scale, bias, padding=CASE.padding)
            value = jnp.vdot(y, along_y)
            return value + jnp.vdot(statistics.mean, along_statistics.mean) if asked else value

        program = str(jax.make_jaxpr(jax.grad(loss))(operands.x))
        return len(re.findall(r"f32\[4,5,3,6\] = sub", program))

    # Forward the mean is subtracted for the variance.
    assert (passes(False), passes(True)) == (1, 2)


def test_padding_and_strides_may_be_given_as_words_and_single_numbers():
    x, kernel, scale, bias, *_ = cases.draw(Case(2, 5, 5, 2, 3, 3, 1, "float32"))[0]
    pairs = conv_bn_relu(x, kernel, scale, bias, strides=(2, 2), padding=((1, 1), (1, 1)))
    jax.tree.map(
        np.testing.assert_array_equal,
        conv_bn_relu(x, kernel, scale, bias, strides=2, padding="SAME"),
        pairs,
    )
    y, _ = conv_bn_relu(x, kernel, scale, bias, padding="VALID")
    assert y.shape == (2, 3, 3, 3)


def test_parameters_are_float32_and_so_are_their_gradients_for_inputs_in_bfloat16():
    drawn = cases.draw(Case(2, 3, 3, 2, 3, 3, pending=True))
    gradients = cases.call(Case(2, 3, 3, 2, 3, 3, pending=True), drawn, "xla")["gradients"]
    assert gradients["x"].dtype == jnp.bfloat16
    floats = [gradients[name] for name in ("kernel", "scale", "bias")] + [*gradients["pending"]]
    assert all(array.dtype == jnp.float32 for array in floats)


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


CALL = {
    "x": shaped(2, 4, 4, 3),
    "kernel": shaped(3, 3, 3, 5),
    "scale": shaped(5),
    "bias": shaped(5),
}


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("x is .batch, height, width, inputs.", {"x": shaped(2, 4, 4, 2)}),
        ("x is float32 or bfloat16, not int32", {"x": shaped(2, 4, 4, 3, dtype=jnp.int32)}),
        ("scale has shape .4,., and should have .5,.", {"scale": shaped(4)}),
        ("the residual is float32 of shape .2, 4, 4, 3.", {"residual": shaped(2, 4, 4, 3)}),
        ("the residual is bfloat16", {"residual": shaped(2, 4, 4, 5, dtype=jnp.bfloat16)}),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(message, changes):
    # The function itself: the shapes of its annotations are checked in tests only.
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(conv_bn_relu.__wrapped__, **(CALL | changes))


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("activation is relu or none, not 'gelu'", {"activation": "gelu"}),
        ("padding is SAME, VALID or pairs", {"padding": "FULL"}),
        ("strides 0: no number may be below 1", {"strides": 0}),
        ("has no position in 2 images of 4x4", {"padding": ((0, 0), (-2, -2))}),
        ("unknown implementation 'cudnn'", {"implementation": "cudnn"}),
        ("mosaic_gpu cannot serve: it needs a GPU, not cpu", {"implementation": "mosaic_gpu"}),
    ],
)
def test_options_that_mean_nothing_are_refused(message, options):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(conv_bn_relu, **options), **CALL)


def test_what_does_not_fit_what_is_normalized_is_refused_by_name():
    x, vector = shaped(2, 4, 4, 3), shaped(3)
    gelu = Normalization(vector, vector, vector, vector, "gelu")
    with pytest.raises(ValueError, match="activation is relu or none, not 'gelu'"):
        jax.eval_shape(normalize, x, gelu)
    short = Normalization(vector, shaped(2), vector, vector)
    with pytest.raises(ValueError, match="variance has shape .2,., and should have .3,."):
        jax.eval_shape(conv_stats, x, CALL["kernel"], short)


def test_a_named_implementation_leaves_to_xla_what_it_has_no_kernel_for():
    # 7x7, the first convolution of a residual network.
    with dispatch.target("NVIDIA H200"):
        told = explain((2, 8, 8, 3), (7, 7, 3, 16), jnp.bfloat16, strides=2)
    assert told["conv_stats"]["mosaic_gpu"] != "serves"
    assert told["conv_stats"]["auto"].startswith("xla: ")
    assert told["normalize"]["mosaic_gpu"] == "serves"


def test_auto_says_what_it_picks_and_why():
    told = explain((2, 4, 4, 3), (3, 3, 3, 5), jnp.float32, residual=True)
    assert told["normalize"] == {
        "xla": "serves",
        "mosaic_gpu": "it needs a GPU, not cpu",
        "mosaic_tpu": "it needs a TPU, not cpu",
        "auto": "xla: nothing was measured on cpu for float32",
    }
    assert told["conv_stats"].keys() == told["normalize"].keys()
