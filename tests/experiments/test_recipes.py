import dataclasses
import json

import pytest

from dlcore import data, evaluators, models, tasks
from dlcore.expectation import Expectation
from dlcore.optim import builder
from dlcore.train import Recipe
from experiments import flags, recipes


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_names_parts_that_exist(name):
    recipe = recipes.get(name)
    task, model = tasks.defaults(recipe.task), models.defaults(recipe.model)
    assert recipe.task_options.keys() <= task.keys()
    assert recipe.model_options.keys() <= model.keys()
    kind = data.TextOptions if recipe.task == "language_model" else data.ExampleOptions
    kind(**recipe.data_options)
    evaluators.choose(tasks.kind(recipe.task).evaluators, recipe.evaluators)
    assert all(need.recipe == recipes.get(need.recipe.name) for need in recipe.needs.values())


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_says_which_score_it_should_reach_and_who_says_so(name):
    expected = recipes.get(name).expected
    assert expected is not None
    assert expected.source
    assert expected.mode in ("max", "min")


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_comes_back_from_its_json(name):
    recipe = recipes.get(name)
    plain = json.loads(json.dumps(recipe.to_json()))
    assert Recipe.from_json(plain) == recipe


def test_every_field_is_explained():
    explained = flags.descriptions(Recipe)
    assert {field.name for field in dataclasses.fields(Recipe)} == explained.keys()


def test_every_option_of_an_optimizer_is_a_field_with_the_same_default():
    fields = {field.name: field.default for field in dataclasses.fields(Recipe)}
    assert dataclasses.asdict(builder.Options()).items() <= fields.items()


@pytest.mark.parametrize("name", models.listed())
def test_every_model_option_is_explained(name):
    explained = flags.descriptions(type(models.create(name)))
    assert models.defaults(name).keys() <= explained.keys()


@pytest.mark.parametrize("name", tasks.listed())
def test_every_task_option_is_explained(name):
    assert tasks.defaults(name).keys() <= flags.descriptions(tasks.kind(name)).keys()


def test_data_are_at_hand_where_they_are_bundled_drawn_or_in_the_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    real, bundled = recipes.get("mlp_mnist"), recipes.get("lenet5_digits")
    drawn = dataclasses.replace(real, data="synthetic")
    assert recipes.at_hand(bundled, None)
    assert recipes.at_hand(drawn, None)
    assert not recipes.at_hand(real, None)
    assert not recipes.at_hand(real, str(tmp_path))
    (tmp_path / "mnist").mkdir()
    assert recipes.at_hand(real, str(tmp_path))
    monkeypatch.setenv("DLCORE_DATA_DIR", str(tmp_path))
    assert recipes.at_hand(real, None)


def test_an_unknown_recipe_is_answered_with_near_matches():
    with pytest.raises(ValueError, match="lenet5_digits"):
        recipes.get("lenet_digits")


def test_a_name_cannot_be_taken_twice():
    with pytest.raises(ValueError, match="registered twice"):
        recipes.register(recipes.get("lenet5_digits"))


@pytest.mark.parametrize(
    ("mode", "score", "met"),
    [("max", 0.9, True), ("max", 0.8, False), ("min", 0.8, True), ("min", 0.9, False)],
)
def test_an_expectation_is_met_on_its_side_of_the_bound(mode, score, met):
    assert Expectation("score", 0.85, mode, "here").met(score) is met
