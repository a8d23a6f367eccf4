"""The cognitron's and the neocognitron's cells; their rule is tested with its task."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.errors import UsageError
from dlcore.models.neocognitron import complex_cells, decreasing, winners
from dlcore.nn import backbone


@functools.cache
def drawn():
    """A network with weights as they are after some learning, and a compiled look at its stages."""
    model = models.create("neocognitron", planes=(3, 4), windows=(3, 5), size=3)
    init = functools.partial(model.init, jax.random.key(0))
    variables = jax.eval_shape(init, jnp.zeros((1, 28, 28, 1)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0, 3, leaf.shape), jnp.float32), variables["params"]
    )
    return jax.jit(lambda images: backbone.collect(model, {"params": params}, images)[1])


@pytest.mark.parametrize(("rows", "cols"), [(4, 0), (0, -4), (-4, 4)])
def test_the_planes_move_along_with_an_image_that_moves_by_whole_strides(rows, cols):
    image = np.zeros((1, 28, 28, 1), np.float32)
    image[:, 10:18, 10:18] = np.random.default_rng(1).uniform(size=(1, 8, 8, 1))
    stages = drawn()
    still, moved = stages(image), stages(np.roll(image, (rows, cols), (1, 2)))
    for name, stride in (("stage1", 1), ("input2", 2), ("stage2", 2)):
        assert np.asarray(still[name]).max() > 0.1, name
        expected = np.roll(still[name], (rows // stride, cols // stride), (1, 2))
        np.testing.assert_allclose(moved[name], expected, atol=1e-5)


def test_stages_and_what_layers_see_are_named():
    for name, expected in {
        "neocognitron": {
            "input1": (2, 28, 28, 1),
            "stage1": (2, 28, 28, 24),
            "input2": (2, 14, 14, 24),
            "stage2": (2, 14, 14, 64),
            "pooled": (2, 3136),
        },
        "cognitron": {"input1": (2, 8, 8, 1), "input2": (2, 8, 8, 8), "pooled": (2, 512)},
    }.items():
        model, inputs = models.create(name), models.entry(name).example_inputs
        variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        look = functools.partial(backbone.collect, model)
        _, stages = jax.eval_shape(look, variables, *inputs)
        assert {stage: x.shape for stage, x in stages.items()} == expected


@pytest.mark.parametrize("name", ["cognitron", "neocognitron"])
def test_fresh_cells_answer_almost_nothing_and_are_not_inhibited(name):
    widths = {"cognitron": {"kinds": (2, 2)}, "neocognitron": {"planes": (2, 2)}}[name]
    model = models.create(name, **widths)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    for layer in ("layer1", "layer2"):
        assert 0 < params[layer]["excitatory"].max() <= 1e-4
        assert params[layer]["excitatory"].min() >= 0
        np.testing.assert_array_equal(params[layer]["inhibitory"], 0)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_fixed_weights_fall_from_the_center_and_add_up_to_one(size):
    weights = decreasing(size)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights, weights[::-1].T, rtol=1e-6)
    assert (np.diff(weights[(size - 1) // 2, size // 2 :]) < 0).all()


def test_a_c_cell_is_silent_where_all_planes_answer_alike_and_below_one_where_one_does():
    alike = jnp.full((1, 6, 6, 4), 0.7)
    np.testing.assert_allclose(complex_cells(alike, 3, 2), 0, atol=1e-6)
    one = jnp.zeros((1, 6, 6, 4)).at[..., 2].set(1e6)
    pooled = np.asarray(complex_cells(one, 3, 2))
    # x = (1 + s) / (1 + s / 4) - 1 goes to 3, and 3 / (1/2 + 3) is the most.
    np.testing.assert_allclose(pooled[0, 1, 1], [0, 0, 3 / 3.5, 0], atol=1e-4)


def test_a_cell_wins_where_none_in_its_vicinity_is_stronger():
    answers = np.zeros((4, 4, 2), np.float32)
    answers[0, 0, 0], answers[1, 1, 1], answers[3, 3, 0] = 0.5, 0.6, 0.1
    choose = jax.jit(winners, static_argnums=1)
    found = [
        {tuple(place) for place in np.argwhere(choose(jnp.asarray(answers), vicinity))}
        for vicinity in (1, 3)
    ]
    assert found == [{(0, 0, 0), (1, 1, 1), (3, 3, 0)}, {(1, 1, 1), (3, 3, 0)}]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"selectivity": (1.0,)}, "2 layers take as many numbers above 0 as selectivity"),
        ({"selectivity": (1.0, 0.0)}, "selectivity=1.0,0.0: it must be above 0"),
        ({"windows": (5,)}, "2 layers take as many windows"),
        ({"column": 4}, "cells compete in areas around a place: of odd size, not 4"),
        ({"stride": 6}, "windows of 5 leave gaps at a stride of 6"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        jax.eval_shape(
            models.create("neocognitron", **options).init,
            jax.random.key(0),
            jnp.zeros((1, 28, 28, 1)),
        )
