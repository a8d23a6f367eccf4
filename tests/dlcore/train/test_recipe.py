"""Recipes as plain data: written, read back, and refused where another version wrote them."""

import dataclasses
import json

import pytest

import dlcore
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.train import Need, Phase, Recipe

JUDGE = Recipe(
    name="judge",
    model="mlp",
    model_options={"hidden": (5, 4)},
    data="iris",
    data_options={"normalize": "none", "split_seed": 1},
    learning_rate=0.5,
)
RECIPE = Recipe(
    name="whole",
    description="with something of everything",
    expected=Expectation("accuracy", 0.9, "max", "a paper"),
    imports=("json",),
    needs={"judge": Need(JUDGE, same_data=True)},
    phases=(
        Phase("first", {"learning_rate": 0.1, "model_options": {"hidden": (3,)}}),
        Phase("second", {"groups": "hidden0/.*:frozen"}),
    ),
    model="mlp",
    model_options={"hidden": (3, 2), "activation": "relu"},
    data="digits",
    data_options={"validation_fraction": 0.3, "resize": 4},
    learning_rate=0.2,
    weight_decay=1e-4,
    evaluators="predictions:every=2",
)


def through_json(plain):
    return json.loads(json.dumps(plain))


def test_what_is_written_as_json_is_read_back_as_it_was():
    assert Recipe.from_json(through_json(RECIPE.to_json())) == RECIPE


def test_it_says_which_version_wrote_it():
    assert RECIPE.to_json()["version"] == dlcore.__version__


@pytest.mark.parametrize("name", ["evaluators", "weight_decay", "needs", "phases", "expected"])
def test_a_field_that_is_missing_has_its_default(name):
    plain = through_json(RECIPE.to_json())
    del plain[name]
    (field,) = (field for field in dataclasses.fields(Recipe) if field.name == name)
    made = field.default_factory is not dataclasses.MISSING
    default = field.default_factory() if made else field.default
    assert Recipe.from_json(plain) == dataclasses.replace(RECIPE, **{name: default})


def test_so_has_one_that_a_needed_recipe_lacks():
    plain = through_json(RECIPE.to_json())
    del plain["needs"]["judge"]["recipe"]["seed"]
    assert Recipe.from_json(plain) == RECIPE


def newer(plain):
    plain |= {"version": "7.1", "flux": 1, "capacitor": 2}


def needs_what_is_newer(plain):
    newer(plain["needs"]["judge"]["recipe"])


def older(plain):
    del plain["version"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            newer,
            f"a run of dlcore 7.1 cannot be read by {dlcore.__version__}, which does not know "
            "capacitor, flux: use dlcore 7.1, or train anew",
        ),
        (needs_what_is_newer, "a run of dlcore 7.1 cannot be read by"),
        (
            older,
            f"a run of dlcore before 0.2 cannot be read by {dlcore.__version__}: use dlcore 0.1, "
            "or train anew",
        ),
    ],
)
def test_what_another_version_wrote_is_refused_in_one_line_that_names_it(change, message):
    plain = through_json(RECIPE.to_json())
    change(plain)
    with pytest.raises(UsageError) as error:
        Recipe.from_json(plain)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_every_field_is_documented():
    for field in dataclasses.fields(Recipe):
        described = any(f"{field.name}: " in (kind.__doc__ or "") for kind in Recipe.__mro__)
        assert described, field.name


# The recipe of one phase, and of a needed run.


def test_the_options_of_a_phase_are_added_to_those_of_the_recipe():
    phase = RECIPE.of_phase(RECIPE.phases[0])
    assert phase.model_options == {"hidden": (3,), "activation": "relu"}
    assert phase.learning_rate == 0.1
    assert phase.weight_decay == RECIPE.weight_decay
    assert not phase.phases


def test_they_stand_alone_where_the_phase_has_another_model():
    other = Phase("other", {"model": "lenet5", "data_options": {"resize": 28}})
    phase = RECIPE.of_phase(other)
    assert (phase.model, phase.model_options) == ("lenet5", {})
    assert phase.data_options == {"validation_fraction": 0.3, "resize": 28}
    own = Phase("own", {"model": "lenet5", "model_options": {"num_classes": 3}})
    assert RECIPE.of_phase(own).model_options == {"num_classes": 3}


def test_the_data_of_another_recipe_come_with_its_splits_and_nothing_else():
    judge = JUDGE.with_data_of(RECIPE)
    assert judge.data == "digits"
    # Pixels are prepared as the judge has it; what the other one leaves open has the default.
    assert judge.data_options == {
        "normalize": "none",
        "splits": "",
        "validation_fraction": 0.3,
        "test_fraction": 0.2,
        "split_seed": 0,
    }
    assert dataclasses.replace(judge, data=JUDGE.data, data_options=JUDGE.data_options) == JUDGE


# Modules of one's own.


def test_a_module_is_imported_once_however_often_it_is_named():
    assert RECIPE.importing("json") == RECIPE
    assert RECIPE.importing("zipfile").imports == ("json", "zipfile")


def test_a_module_that_is_not_there_is_refused_with_what_to_do():
    absent = RECIPE.importing("a_module_of_nobody")
    with pytest.raises(UsageError, match="^module 'a_module_of_nobody' of recipe 'whole' cannot"):
        absent.import_modules()
