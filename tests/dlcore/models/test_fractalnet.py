"""FractalNet against PyTorch, its columns, its noise, and its parameters counted by hand."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.analysis import counts
from dlcore.errors import UsageError
from dlcore.nn import backbone
from dlcore.nn.conv_norm import Norm
from dlcore.nn.pooling import max_pool
from dlcore.nn.regularization import Dropout, DropPathJoin
from tests import networks
from tests.fixtures import cases, equality, normalized_cases

COLUMNS = normalized_cases.FRACTAL_COLUMNS
SILENT = {"drop_path_rate": 0.0, "global_drop_path": 0.0}
NETWORK = normalized_cases.fractal()
VARIABLES = networks.variables(NETWORK, batch_stats=NETWORK.averages)


def create(**options):
    """The network of the fixture."""
    options = {
        "dropout_rates": (0.0, 0.0),
        "channels": normalized_cases.FRACTAL_CHANNELS,
        **options,
    }
    return models.create("fractalnet20_cifar", **options)


@pytest.mark.parametrize("mode", ["evaluated", "trained"])
def test_logits_and_gradients_are_pytorch_s_where_nothing_is_dropped(mode):
    equality.assert_equal(create(**SILENT), "fractal", mode)


@pytest.mark.parametrize("column", range(COLUMNS))
def test_a_column_evaluated_alone_is_pytorch_s(column):
    apply = jax.jit(create(evaluated_column=column).apply)
    expected = cases.load("residual_networks")[f"fractal/column{column}"]
    logits = apply(VARIABLES, jnp.asarray(NETWORK.images))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_evaluates_one_column_has_and_trains_all_of_them():
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    rngs = {"dropout": jax.random.key(0)}
    shapes, products = [], []
    for model in (create(), create(evaluated_column=2)):
        shapes.append(jax.eval_shape(model.init, jax.random.key(0), images))
        train = functools.partial(model.apply, train=True, rngs=rngs, mutable=["batch_stats"])
        products.append(counts.multiply_adds(train, shapes[-1], images))
    assert jax.tree.map(jnp.shape, shapes[0]) == jax.tree.map(jnp.shape, shapes[1])
    assert products[0] == products[1] == counts.of_model(create(), images).multiply_adds


def test_parameters_are_counted_block_by_block():
    total, inputs = 0, 3
    for channels in (64, 128, 256, 512, 512):
        # Three columns of 4, 2 and 1 kernels; the first of each reads the block's input. Two more
        # numbers for each channel of the seven.
        total += 3 * 9 * inputs * channels + 4 * 9 * channels**2 + 7 * 2 * channels
        inputs = channels
    # 33,698,880 weights and 20,608 scales and shifts, and behind them 5,130 for the logits.
    assert total == 33_698_880 + 20_608
    assert models.entry("fractalnet20_cifar").parameter_count == total + 512 * 10 + 10


@functools.cache
def published():
    """The network of 20 layers, images, and its variables' shapes."""
    model = models.create("fractalnet20_cifar")
    images = jax.ShapeDtypeStruct((2, 37, 70, 3), jnp.float32)
    return model, images, jax.eval_shape(model.init, jax.random.key(0), images)


def test_a_column_has_half_as_many_layers_as_the_deeper_one_before_it():
    names = published()[2]["params"]
    layers = [sum(f"column{c}" in name and "conv" in name for name in names) for c in range(3)]
    assert layers == [20, 10, 5]


def test_a_column_alone_costs_its_own_layers():
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    first, second = normalized_cases.FRACTAL_CHANNELS
    for column, layers in enumerate((4, 2, 1)):
        expected = 64 * 9 * (3 * first + (layers - 1) * first**2)
        expected += 16 * 9 * (first * second + (layers - 1) * second**2) + 10 * second
        model = create(evaluated_column=column)
        assert counts.of_model(model, image).multiply_adds == expected


@functools.cache
def handed_on(**options):
    """What layers hand on in training, of 200 examples."""
    images = jnp.tile(NETWORK.images, (50, 1, 1, 1))
    kinds = (Dropout, DropPathJoin, Norm)
    return networks.handed_on(create(**options), VARIABLES, images, kinds)


LOCAL = {"drop_path_rate": 0.4, "global_drop_path": 0.0, "dropout_rates": (0.0, 0.4)}


def ends(found, stage):
    """What the columns of a block hand to its last join."""
    return [max_pool(found[f"{stage}_column{c}_row4_norm"]) for c in range(COLUMNS)]


def test_global_drop_path_keeps_one_column_of_an_example_in_all_blocks():
    found = handed_on(global_drop_path=1.0)
    first, second = (
        np.stack(
            [np.isclose(end, found[f"{stage}_join4"]).all((1, 2, 3)) for end in ends(found, stage)]
        )
        for stage in ("stage1", "stage2")
    )
    np.testing.assert_array_equal(first.sum(0), 1)
    np.testing.assert_array_equal(first, second)
    assert (first.mean(1) > 0.15).all()


def test_local_drop_path_keeps_some_of_a_join_s_inputs():
    found = handed_on(**LOCAL)
    inputs, joined = ends(found, "stage1"), found["stage1_join4"]
    subsets = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
    means = [np.mean([inputs[column] for column in subset], axis=0) for subset in subsets]
    matches = np.stack([np.isclose(mean, joined, atol=1e-5).all((1, 2, 3)) for mean in means])
    np.testing.assert_array_equal(matches.sum(0), 1)
    # All are kept with probability 0.6^3.
    assert matches[-1].mean() == pytest.approx(0.216, abs=5 * np.sqrt(0.17 / 200))


def test_each_block_has_its_own_rate_of_dropout_before_the_normalization():
    found = handed_on(**LOCAL)
    dropouts = {path: array for path, array in found.items() if path.endswith("_dropout")}
    layers = [path for path in found if path.startswith("stage2") and path.endswith("_norm")]
    assert sorted(dropouts) == sorted(path.replace("_norm", "_dropout") for path in layers)
    for array in dropouts.values():
        spread = 5 * np.sqrt(0.24 / array.size)
        assert np.mean(array == 0) == pytest.approx(0.4, abs=spread)
    # What is normalized is what dropout has left.
    for path in layers:
        left = np.asarray(dropouts[path.replace("_norm", "_dropout")], np.float64)
        norm, deviation = VARIABLES["params"][path], np.sqrt(left.var((0, 1, 2)) + 1e-5)
        expected = (left - left.mean((0, 1, 2))) / deviation * norm["scale"] + norm["bias"]
        np.testing.assert_allclose(found[path], np.maximum(expected, 0), rtol=1e-3, atol=1e-4)


def test_dropout_is_a_tenth_more_in_every_block():
    rates = models.defaults("fractalnet20_cifar")["dropout_rates"]
    np.testing.assert_allclose(rates, 0.1 * np.arange(5))


def test_a_stage_is_a_block_s_result_of_half_the_height_and_width():
    model, images, variables = published()
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    assert {name: stage.shape for name, stage in stages.items()} == {
        "stage1": (2, 18, 35, 64),
        "stage2": (2, 9, 17, 128),
        "stage3": (2, 4, 8, 256),
        "stage4": (2, 2, 4, 512),
        "stage5": (2, 1, 2, 512),
        "pooled": (2, 512),
    }


def test_kernels_begin_uniform_with_variance_1_by_fan_in():
    model = create(channels=(32, 32), columns=1)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    kernel, fan_in = params["stage2_column0_row1_conv"]["kernel"], 9 * 32
    assert kernel.var() * fan_in == pytest.approx(1, abs=0.05)
    assert abs(kernel).max() <= np.sqrt(3 / fan_in)
    assert abs(kernel).max() > 0.99 * np.sqrt(3 / fan_in)


def test_a_network_computes_in_the_precision_that_is_asked_for():
    model = create(dtype="bfloat16", dropout_rates=(0.0, 0.1))
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    rngs = {"dropout": jax.random.key(0)}
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"], rngs=rngs)
    program = jax.jit(apply).lower(variables, images).as_text()
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*(\w+)>", program)
    assert set(convolutions) == {"bf16"}
    logits, moved = jax.eval_shape(apply, variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, moved))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout_rates": (0.1,)}, "2 blocks need 2 of them"),
        ({"dropout_rates": (0.1, 1.0)}, "it must be at least 0 and below 1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0: it must be at least 0 and below 1"),
        ({"global_drop_path": -0.5}, "global_drop_path=-0.5: it must be at least 0 and at most 1"),
        ({"evaluated_column": 3}, "with 3 columns it is from 0 to 2, or -1 for all"),
        ({"channels": (4,) * 4, "dropout_rates": (0.0,) * 4}, "images of 16x16 or more, not 8x8"),
        ({"dtype": "float16"}, "in float32 or bfloat16, not 'float16'"),
    ],
)
def test_what_a_network_cannot_be_is_refused(options, message):
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(functools.partial(create(**options).init, train=True), keys, images)
