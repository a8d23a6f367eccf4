"""The LeNets against their papers' counts and tables, and against PyTorch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.errors import UsageError
from dlcore.models.lenet import C3_TABLE, H3_TABLE, LENET4_TABLE, digit_bitmaps
from dlcore.nn import backbone
from dlcore.nn.pooling import TrainableSubsampling
from tests import networks
from tests.fixtures import cases, network_cases


def connections(table):
    """The input and the output map of each connection, in the table's order."""
    pairs = [(source, output) for output, row in enumerate(table) for source in row]
    return np.transpose(pairs)


def connected(params, layer, table):
    """A fixture's parameters as the model holds them: of that layer's kernel the connections."""
    params = jax.tree.map(jnp.asarray, params)
    params[layer]["kernel"] = params[layer]["kernel"][:, :, *connections(table)]
    return params


def published_params():
    return connected(network_cases.lenet5().params, "C3", C3_TABLE)


@pytest.mark.parametrize(
    ("layer", "count"),
    [("C1", 156), ("S2", 12), ("C3", 1_516), ("S4", 32), ("C5", 48_120), ("F6", 10_164)],
)
def test_each_layer_has_the_published_number_of_parameters(layer, count):
    entry = models.entry("lenet5")
    init = models.create("lenet5").init
    params = jax.eval_shape(init, jax.random.key(0), *entry.example_inputs)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params[layer])) == count


def test_the_connections_of_c3_are_those_of_the_printed_table():
    connected = np.zeros((6, 16))
    for output, sources in enumerate(C3_TABLE):
        connected[list(sources), output] = 1
    np.testing.assert_array_equal(connected, network_cases.c3_mask())
    assert connected.sum() == 60


def test_the_bitmaps_are_ten_distinct_digits_of_seven_by_twelve():
    bitmaps = digit_bitmaps()
    assert bitmaps.shape == (10, 84)
    assert set(np.unique(bitmaps)) == {-1, 1}
    different = (bitmaps[:, None] != bitmaps).sum(-1) + 84 * np.eye(10)
    assert different.min() >= 8


def test_the_bitmaps_are_drawn_upright_in_the_order_of_the_digits():
    zero, one, seven = (digit_bitmaps()[digit].reshape(12, 7) for digit in (0, 1, 7))
    np.testing.assert_array_equal(zero, zero[:, ::-1])
    assert one[10].sum() > one[1].sum()  # A foot, and a thin top.
    assert seven[1].min() == 1  # A full bar on top.
    assert seven[10].sum() < 0


def test_the_published_layers_up_to_f6_equal_pytorch_s():
    network, stored = network_cases.lenet5(), cases.load("lenet5")
    model, images = models.create("lenet5"), jnp.asarray(network.images)

    def f6(params):
        _, captured = model.apply(
            {"params": params},
            images,
            capture_intermediates=lambda module, _: module.name == "F6",
            mutable=["intermediates"],
        )
        (sums,) = captured["intermediates"]["F6"]["__call__"]
        units = 1.7159 * jnp.tanh(2 / 3 * sums)
        return jnp.square(units).sum(), units

    gradients, units = jax.jit(jax.grad(f6, has_aux=True))(published_params())
    np.testing.assert_allclose(units, stored["f6"], rtol=1e-4, atol=1e-5)
    directions = network.directions()
    for layer, named in gradients.items():
        for name, gradient in named.items():
            direction = directions[layer][name]
            if (layer, name) == ("C3", "kernel"):
                direction = direction[:, :, *connections(C3_TABLE)]
            norm = stored[f"gradient_norm/{layer}/{name}"]
            assert np.linalg.norm(gradient) == pytest.approx(norm, rel=1e-4)
            part = stored[f"gradient_part/{layer}/{name}"]
            assert (gradient * direction).sum() == pytest.approx(part, abs=1e-4 * norm)


def test_a_score_is_the_negative_squared_distance_of_f6_to_the_digit():
    images = jnp.asarray(network_cases.lenet5().images)
    scores = models.create("lenet5").apply({"params": published_params()}, images)
    f6 = cases.load("lenet5")["f6"]
    for digit in range(10):
        distance = ((f6 - digit_bitmaps()[digit]) ** 2).sum(1)
        np.testing.assert_allclose(scores[:, digit], -distance, rtol=1e-4)


def test_fewer_classes_use_the_first_bitmaps():
    images = jnp.asarray(network_cases.lenet5().images)
    ten = models.create("lenet5").apply({"params": published_params()}, images)
    three = models.create("lenet5", num_classes=3).apply({"params": published_params()}, images)
    np.testing.assert_allclose(three, ten[:, :3], rtol=1e-6)


def test_lenet1_is_pytorch_s():
    network, stored = network_cases.lenet1(), cases.load("lenet1")
    own = dataclasses.replace(network, params=connected(network.params, "H3", H3_TABLE))
    scores, gradients, _ = networks.descended(models.create("lenet1"), own)
    np.testing.assert_allclose(scores, stored["logits"], rtol=1e-4, atol=1e-5)
    kernel = np.zeros((5, 5, 4, 12))
    kernel[:, :, *connections(H3_TABLE)] = gradients["H3"]["kernel"]
    gradients["H3"]["kernel"] = kernel
    assert not cases.differing(stored, "gradient", network, gradients, 1e-4)


def test_the_connections_of_h3_are_those_of_the_printed_table():
    mask = np.zeros((4, 12))
    mask[tuple(connections(H3_TABLE))] = 1
    np.testing.assert_array_equal(mask, network_cases.h3_mask())


# Of each layer: the positions of its maps, its parameters, and what is summed at a position, biases
# included. A subsampling map has two parameters and five connections; H3 has 20 kernels, C3 48.
LENET1 = {
    "H1": (24 * 24, 4 * 26, 4 * 26),
    "H2": (12 * 12, 4 * 2, 4 * 5),
    "H3": (8 * 8, 20 * 25 + 12, 20 * 25 + 12),
    "H4": (4 * 4, 12 * 2, 12 * 5),
    "output": (1, 10 * 193, 10 * 193),
}
LENET4 = {
    "C1": (28 * 28, 4 * 26, 4 * 26),
    "S2": (14 * 14, 8 * 2, 8 * 5),
    "C3": (10 * 10, 48 * 25 + 16, 48 * 25 + 16),
    "S4": (5 * 5, 16 * 2, 16 * 5),
    "F5": (1, 120 * 401, 120 * 401),
    "output": (1, 10 * 121, 10 * 121),
}


@pytest.mark.parametrize(("name", "layers"), [("lenet1", LENET1), ("lenet4", LENET4)])
def test_the_layers_of_the_smaller_ones_are_counted_by_hand(name, layers):
    init = models.create(name).init
    images = models.entry(name).example_inputs
    params = jax.eval_shape(init, jax.random.key(0), *images)["params"]
    counted = {layer: sum(leaf.size for leaf in jax.tree.leaves(params[layer])) for layer in params}
    assert counted == {layer: parameters for layer, (_, parameters, _) in layers.items()}


def test_the_published_counts_come_out_but_for_lenet4_s_parameters():
    def totals(layers):
        parameters = sum(own for _, own, _ in layers.values())
        return parameters, sum(positions * summed for positions, _, summed in layers.values())

    # LeCun et al. (1990), section 3; "about 2600" in 1998.
    assert totals(LENET1) == (2_578, 98_442)
    parameters, summed = totals(LENET4)
    # "About 260,000 connections and about 17,000 free parameters": with 120 units fully connected
    # to S4, as the same sentence has it, the hidden layer alone has more.
    assert round(summed, -4) == 260_000
    assert parameters > LENET4["F5"][1] > 17_000


def test_two_subsampling_maps_of_lenet4_look_at_each_of_the_first_maps():
    model, images = models.create("lenet4"), jnp.asarray(network_cases.lenet5().images)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), images),
    )
    other = jax.tree.map(jnp.array, variables)
    other["params"]["C1"]["bias"] = other["params"]["C1"]["bias"].at[1].add(1.0)
    before, after = (
        networks.handed_on(model, own, images, TrainableSubsampling)["S2"]
        for own in (variables, other)
    )
    changed = jnp.abs(after - before).max((0, 1, 2)) > 0
    assert changed.tolist() == [False, False, True, True, False, False, False, False]


def test_each_map_of_lenet4_s_second_convolution_sees_another_three():
    seen = {frozenset(sources) for sources in LENET4_TABLE}
    assert len(seen) == len(LENET4_TABLE) == 16
    assert {len(sources) for sources in seen} == {3}
    assert np.bincount(connections(LENET4_TABLE)[0]).tolist() == [6] * 8


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lenet1", [(192,), (24, 24, 4), (8, 8, 12)]),
        ("lenet4", [(120,), (28, 28, 4), (10, 10, 16)]),
        ("lenet5", [(84,), (28, 28, 6), (10, 10, 16)]),
        ("lenet5_modern", [(84,), (28, 28, 6), (10, 10, 16)]),
    ],
)
def test_stages_are_the_maps_before_each_subsampling(name, expected):
    model, (images,) = models.create(name), models.entry(name).example_inputs
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    _, stages = jax.eval_shape(functools.partial(backbone.collect, model), variables, images)
    names = ("pooled", "stage1", "stage2")
    assert [stages.pop(stage).shape[1:] for stage in names] == expected
    assert not stages


def modern(**options):
    model = models.create("lenet5_modern", **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
    return model, shapes


@pytest.mark.parametrize(
    ("options", "change"),
    [
        # Two numbers a channel or unit for one bias: 6 + 16 + 120 + 84 more.
        ({"normalization": "batch"}, 226),
        ({"normalization": "batch", "normalize": "after"}, 452),
        ({"normalization": "layer"}, 452),
        ({"normalization": "group:2"}, 452),
        ({"normalization": "local_response", "normalize": "after"}, 0),
        ({"normalization": "local_contrast", "normalize": "after"}, 0),
        ({"dropout_rate": 0.5, "input_noise": 0.1}, 0),
    ],
)
def test_a_normalization_brings_its_parameters_and_noise_none(options, change):
    _, shapes = modern(**options)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count == 61_706 + change


def test_noise_is_on_in_training_alone_and_normalization_in_both_modes():
    options = {"normalization": "local_response", "dropout_rate": 0.5, "input_noise": 0.1}
    plain, shapes = modern()
    noisy, _ = modern(**options)
    quiet, _ = modern(normalization="local_response")
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype), shapes
    )
    images = jnp.asarray(network_cases.lenet5_modern().images)
    run = jax.jit(
        lambda params, key: (
            noisy.apply(params, images),
            quiet.apply(params, images, True),
            plain.apply(params, images),
            noisy.apply(params, images, True, rngs={"dropout": key}),
        )
    )
    evaluated, normalized, other, trained = run(params, jax.random.key(0))
    np.testing.assert_allclose(evaluated, normalized, rtol=1e-5)
    assert not np.isclose(evaluated, other).all(1).any()
    assert not np.isclose(evaluated, trained).all(1).any()


@pytest.mark.parametrize(
    ("name", "options", "shape", "message"),
    [
        ("lenet5_modern", {"normalization": "bath"}, (1, 28, 28, 1), "'bath': it is one of none"),
        ("lenet5_modern", {"normalization": "group:5"}, (1, 28, 28, 1), "6 channels do not divide"),
        ("lenet5_modern", {"normalize": "at"}, (1, 28, 28, 1), "normalize is before or after"),
        ("lenet5_modern", {"dropout_rate": 1.0}, (1, 28, 28, 1), "at least 0 and below 1"),
        (
            "lenet5_modern",
            {"input_noise": -1.0},
            (1, 28, 28, 1),
            "input_noise=-1.0: it must be at least 0",
        ),
        ("lenet5", {}, (1, 28, 28, 1), "takes images of 32x32x1, not 28x28x1: pad or crop"),
        ("lenet1", {}, (1, 32, 32, 1), "lenet1 takes images of 28x28x1, not 32x32x1: pad or crop"),
        ("lenet4", {}, (1, 32, 32, 3), "lenet4 takes images of 32x32x1, not 32x32x3: pad or crop"),
        ("lenet5", {"num_classes": 11}, (1, 32, 32, 1), "the ten digits, not 11 classes"),
        ("lenet5_modern", {}, (1, 8, 8, 1), "takes images of 12x12 or more, not 8x8x1"),
    ],
)
def test_what_a_network_cannot_take_is_refused(name, options, shape, message):
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(models.create(name, **options).init, jax.random.key(0), jnp.zeros(shape))
