"""The landscape of the digits, trained here or opened from run directories."""

import functools

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import pytest
import scipy.special

from dlcore import data
from dlcore.analysis import study
from dlcore.errors import UsageError
from dlcore.train import Recipe, Session
from dlcore.train.checkpoint import Checkpoints
from dlcore.train.workdir import write_json

TINY = {"resolution": 3, "examples": 200}


@functools.cache
def measured(plane):
    return study.create("landscape", plane=plane, **TINY).run()


def test_trained_parameters_lie_in_a_valley():
    numbers = measured("random")
    np.testing.assert_array_equal(numbers["x"], [-1, 0, 1])
    np.testing.assert_array_equal(numbers["points"], [[0, 0]])
    center = numbers["loss"][1, 1]
    assert center == numbers["loss_at_points"][0] == numbers["least"]
    # Chance is ln 10 = 2.3 nats: the network has learned, and the border is much worse.
    assert center < 0.2
    assert np.delete(numbers["loss"].ravel(), 4).min() > 5 * center
    assert numbers["greatest"] == numbers["loss"].max()


def test_three_trained_networks_lie_in_valleys_of_their_own():
    numbers = measured("points")
    assert numbers["points"].shape == (3, 2)
    assert numbers["loss_at_points"].max() < 0.2
    # Between them, the mean of the three, it goes up.
    assert numbers["loss"][1, 1] > 2 * numbers["loss_at_points"].max()
    low, high = numbers["points"].min(0), numbers["points"].max(0)
    for axis, name in enumerate("xy"):
        assert numbers[name][0] < low[axis]
        assert numbers[name][-1] > high[axis]


@pytest.mark.parametrize("view", ["contour", "surface"])
def test_both_views_are_drawn(view):
    experiment = study.create("landscape", view=view, **TINY)
    figure = experiment.draw(measured("random"))
    assert isinstance(figure, matplotlib.figure.Figure)
    assert figure.axes[0].name == ("3d" if view == "surface" else "rectilinear")


def write_run(directory, seed, hidden=(5,)):
    """A run whose best checkpoint holds drawn parameters, which are returned."""
    options = {"model": "mlp", "model_options": {"hidden": hidden}, "data": "digits"}
    session = Session(Recipe(name="tiny", learning_rate=0.1, **options))
    directory.mkdir()
    write_json(directory / "recipe.json", session.recipe.to_json())
    rng = np.random.default_rng(seed)

    def draw(leaf):
        drawn = rng.normal(size=leaf.shape) if jnp.issubdtype(leaf.dtype, jnp.floating) else 0
        return jnp.broadcast_to(jnp.asarray(drawn, leaf.dtype), leaf.shape)

    state = jax.tree.map(draw, session.prepared.program.abstract_state)
    checkpoints = Checkpoints(directory / "checkpoints", mode="max")
    checkpoints.save(1, state, {}, watched=0.5)
    checkpoints.close()
    return state.params


def test_run_directories_give_the_points(tmp_path):
    directories = [tmp_path / str(seed) for seed in range(3)]
    written = [write_run(directory, seed) for seed, directory in enumerate(directories)]
    runs = ",".join(map(str, directories))
    numbers = study.create("landscape", plane="points", runs=runs, **TINY).run()
    dataset = data.load("digits")
    batch = dataset.transform(dataset.example_batch(200), None, False)
    images, labels = np.float64(batch["image"]).reshape(200, -1), np.asarray(batch["label"])
    for params, loss in zip(written, numbers["loss_at_points"], strict=True):
        (kernel, bias), (kernel_2, bias_2) = (
            (np.float64(layer["kernel"]), np.float64(layer["bias"])) for layer in params.values()
        )
        logits = np.tanh(images @ kernel + bias) @ kernel_2 + bias_2
        expected = -scipy.special.log_softmax(logits, -1)[np.arange(200), labels].mean()
        assert loss == pytest.approx(expected, rel=1e-5)
    sides = [
        float(optax.tree.norm(jax.tree.map(jnp.subtract, written[0], params)))
        for params in written[1:]
    ]
    np.testing.assert_allclose(np.linalg.norm(numbers["points"][1:], axis=1), sides, rtol=1e-5)


def test_runs_of_different_models_are_refused(tmp_path):
    for name, hidden in (("a", (5,)), ("b", (5,)), ("c", (6,))):
        write_run(tmp_path / name, 0, hidden)
    runs = ",".join(str(tmp_path / name) for name in "abc")
    with pytest.raises(UsageError, match="no plane in common: model_options differs"):
        study.create("landscape", plane="points", runs=runs, **TINY).run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plane": "curved"}, "unknown plane 'curved': it is random or points"),
        ({"view": "top"}, "unknown view 'top': it is contour or surface"),
        ({"resolution": 1}, "resolution=1: it must be at least 2"),
        ({"examples": 0}, "examples=0"),
        ({"extent": 0.0}, "extent=0.0: it must be above 0"),
        ({"seed": -1}, "seed=-1"),
        ({"runs": "a,b"}, "plane=random takes 1 in runs, not 2: a,b"),
        ({"plane": "points", "runs": "a"}, "plane=points takes 3 in runs, not 1: a"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        study.create("landscape", **options)
