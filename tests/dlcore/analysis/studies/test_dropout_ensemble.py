"""The sub-networks of dropout: what their averages are in theory, and as measured."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import models
from dlcore.analysis import studies
from dlcore.analysis.descent import random_start
from dlcore.errors import UsageError


@functools.cache
def measured():
    study = studies.create("dropout_ensemble", depths=(1,), units=16, subnetworks=256, epochs=3)
    return study, study.run()


@pytest.mark.parametrize(("hidden", "exact"), [((6,), True), ((3, 3), False)])
def test_the_geometric_average_of_all_sub_networks_of_one_layer_is_test_time_scaling(hidden, exact):
    rate, units = 0.3, sum(hidden)
    options = {"hidden": hidden, "activation": "relu", "dropout_rate": rate}
    model = models.create("mlp", classic_dropout=True, **options)
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.normal(size=(5, 4)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = random_start(shapes, generator)
    predict = jax.jit(
        lambda params, images: jax.nn.softmax(model.apply({"params": params}, images))
    )
    scaled = np.asarray(predict(params, images))

    masks = np.arange(2**units)[:, None] >> np.arange(units) & 1
    weight = np.prod(np.where(masks, 1 - rate, rate), axis=1)
    assert weight.sum() == pytest.approx(1)
    x = np.asarray(images, np.float64)[None]
    for layer, mask in enumerate(np.split(masks, np.cumsum(hidden)[:-1], axis=1)):
        x = np.maximum(x @ params[f"hidden{layer}"]["kernel"], 0) * mask[:, None]
    logits = x @ params["logits"]["kernel"]
    # A sub-network's normalizer is the same for all classes: the average logits say it all.
    average = np.exp(np.tensordot(weight, logits, 1))
    geometric = average / average.sum(1, keepdims=True)
    close = np.allclose(geometric, scaled, atol=1e-5)
    assert close == exact


@pytest.mark.slow
def test_the_average_of_one_layer_s_sub_networks_nears_scaling_as_one_over_the_root():
    _, numbers = measured()
    log_count, log_distance = np.log(numbers["count"]), np.log(numbers["geometric_distance"])
    slope = np.polyfit(log_count, log_distance[0], 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.05)


def test_averages_of_more_sub_networks_predict_better_than_one_alone():
    _, numbers = measured()
    for name in ("arithmetic", "geometric"):
        loss = numbers[f"{name}_loss"]
        assert loss.shape == (1, 9)
        assert (loss[:, -1] < loss[:, 0]).all()
    np.testing.assert_allclose(
        numbers["geometric_loss"][0, -1], numbers["scaled_loss"][0], rtol=0.02
    )


def test_one_sub_network_is_its_own_average_of_either_kind():
    _, numbers = measured()
    for what in ("error", "loss", "distance"):
        first = [numbers[f"{name}_{what}"][:, 0] for name in ("arithmetic", "geometric")]
        np.testing.assert_allclose(*first, rtol=1e-6)


def test_the_figure_compares_both_averages_with_scaling_for_each_depth():
    study, numbers = measured()
    axes = study.draw(numbers).axes
    assert [len(panel.lines) for panel in axes] == [3, 3]
    titles = [panel.get_title(loc="left") for panel in axes]
    assert titles == ["1 hidden layer"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.0}, "rate=1.0: it must be above 0 and below 1"),
        ({"rate": 0.0}, "rate=0.0"),
        ({"units": 0}, "units=0: it must be at least 1"),
        ({"subnetworks": 1}, "subnetworks=1: it must be at least 2"),
        ({"depths": ()}, "depths(=| is)"),
        ({"depths": (1, 0)}, "depths(=| is)"),
        ({"epochs": 0}, "epochs=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        studies.create("dropout_ensemble", **options)
