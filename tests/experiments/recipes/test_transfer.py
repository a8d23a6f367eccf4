"""The ways of transfer: what each takes from its source, and what each leaves as it is."""

import dataclasses

import numpy as np
import pytest

from dlcore import weights
from dlcore.optim import groups
from dlcore.train import Need, Run, Session
from experiments import recipes

LAYERS = ("C1", "C3", "C5", "F6", "logits")
# The layers that start anew, and those that are frozen in each phase.
WAYS = {
    "fine_tuned": ((), [()]),
    "frozen": (("C5", "F6", "logits"), [("C1", "C3")]),
    "features": (("logits",), [("C1", "C3", "C5", "F6")]),
    "layer_rates": (("logits",), [()]),
    "unfreezing": (("logits",), [LAYERS[:frozen] for frozen in (4, 3, 2, 1, 0)]),
}


def small(way):
    """The recipe with a source that needs no download, an epoch for each."""
    recipe = recipes.get(f"few_digits_{way}")
    quiet = {"num_epochs": 1, "evaluators": "-learning_curves -filters -predictions"}
    source = dataclasses.replace(
        recipe.needs["source"].recipe, data="digits", data_options={"resize": 28}, **quiet
    )
    return dataclasses.replace(recipe, needs={"source": Need(source)}, **quiet)


def layers_of(names):
    return tuple(sorted({name.partition("/")[0] for name in names}, key=LAYERS.index))


@pytest.mark.parametrize("way", WAYS)
def test_each_way_freezes_its_layers_phase_by_phase(way):
    params = {layer: {"kernel": np.zeros(1), "bias": np.zeros(1)} for layer in LAYERS}
    frozen = [
        layers_of(
            name
            for name, is_frozen in weights.flatten(
                groups.frozen_mask(groups.parse(recipe.groups), params)
            ).items()
            if is_frozen
        )
        for recipe in recipes.get(f"few_digits_{way}").by_phase()
    ]
    assert frozen == WAYS[way][1]


def test_the_rates_of_layers_grow_by_one_factor_to_that_of_the_last():
    parsed = groups.parse(recipes.get("few_digits_layer_rates").groups)
    rates = [group.settings["rate"] for group in parsed] + [1]
    np.testing.assert_allclose(np.divide(rates[1:], rates[:-1]), 2.6, rtol=0.01)


@pytest.mark.slow
def test_what_is_frozen_is_the_sources_to_the_bit(tmp_path):
    Session(small("frozen")).run(tmp_path)
    source, own = (
        weights.flatten(Run(directory).trained().variables)
        for directory in (tmp_path / "source", tmp_path)
    )
    same = layers_of(name for name in own if np.array_equal(own[name], source[name]))
    assert same == ("C1", "C3")


@pytest.mark.parametrize("way", WAYS)
def test_each_way_starts_anew_what_its_mapping_says(way):
    recipe = recipes.get(f"few_digits_{way}")
    own = {f"{layer}/kernel": np.zeros(2, np.float32) for layer in LAYERS}
    source = {name: np.ones(2, np.float32) for name in own}
    variables = {"params": {layer: {"kernel": own[f"{layer}/kernel"]} for layer in LAYERS}}
    started = weights.flatten(weights.start(variables, source, recipe.start_mapping))
    assert layers_of(name for name, array in started.items() if not array.any()) == WAYS[way][0]
