"""The fractal network of fully connected layers: its expansion rule and its paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.errors import UsageError

COLUMNS = 3
IMAGES = jax.random.normal(jax.random.key(1), (64, 3, 3, 1))


def create(**options):
    return models.create("fractal_mlp", hidden=6, columns=COLUMNS, activation="tanh", **options)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(create().init, jax.random.key(0), IMAGES)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


class Reference:
    """The network in float64; a layer is known by its column and the row where it ends."""

    def __init__(self, params):
        self.params = params

    def sums(self, name, x):
        return x @ np.asarray(self.params[name]["kernel"], np.float64) + self.params[name]["bias"]

    def layer(self, column, row, x):
        return np.tanh(self.sums(f"block0_column{column}_row{row}", x))

    def fractal(self, column, row, x):
        """All inputs of the join at the end of f_{column + 1}, which begins behind `row`."""
        if column == 0:
            return [self.layer(0, row + 1, x)]
        half = 2 ** (column - 1)
        middle = np.mean(self.fractal(column - 1, row, x), axis=0)
        return [
            *self.fractal(column - 1, row + half, middle),
            self.layer(column, row + 2 * half, x),
        ]

    def column(self, column, x):
        """One column alone."""
        for row in range(2**column, 2 ** (COLUMNS - 1) + 1, 2**column):
            x = self.layer(column, row, x)
        return x

    def logits(self, block):
        stem = np.tanh(self.sums("stem", np.asarray(IMAGES, np.float64).reshape(64, 9)))
        return self.sums("logits", block(stem))


def test_a_block_follows_the_expansion_rule(params):
    reference = Reference(params)
    expected = reference.logits(lambda x: np.mean(reference.fractal(COLUMNS - 1, 0, x), axis=0))
    np.testing.assert_allclose(create().apply({"params": params}, IMAGES), expected, atol=1e-4)


@pytest.fixture(scope="module")
def trained(params):
    def train(**options):
        model, rngs = create(**options), {"dropout": jax.random.key(0)}
        return jax.jit(lambda: model.apply({"params": params}, IMAGES, True, rngs=rngs))()

    return train


def test_global_drop_path_sends_each_example_through_one_column(params, trained):
    reference = Reference(params)
    alone = np.stack(
        [reference.logits(lambda x, c=c: reference.column(c, x)) for c in range(COLUMNS)]
    )
    logits = np.asarray(trained(global_drop_path=1.0))
    matches = np.isclose(logits, alone, atol=1e-4).all(-1)
    np.testing.assert_array_equal(matches.sum(0), 1)
    assert matches.any(1).all()


def test_without_drop_path_training_is_evaluation(params, trained):
    expected = create().apply({"params": params}, IMAGES)
    logits = trained(drop_path_rate=0.0, global_drop_path=0.0)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0: it must be at least 0 and below 1"),
        ({"global_drop_path": -0.5}, "global_drop_path=-0.5: it must be at least 0 and at most 1"),
    ],
)
def test_an_option_out_of_range_is_refused(params, trained, options, message):
    with pytest.raises(UsageError, match=message):
        trained(**options)
