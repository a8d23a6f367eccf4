"""What a recipe leaves open, and what a dataset makes of it."""

import dataclasses
import json
from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np
import pytest

from dlcore import data, evaluators, models, processes, tasks
from dlcore.data.features import ClassLabel, Row
from dlcore.errors import UsageError
from dlcore.tasks.classification import Classification
from dlcore.train import Recipe, Settings, preparation


def words(name, options):
    features = {"row": Row(("x",)), "label": ClassLabel(tuple(map(str, range(1000))))}
    arrays = {"row": np.zeros((2000, 1)), "label": np.arange(2000) // 3}
    return data.from_arrays(features, {"train": arrays, "test": arrays}, options, name)


class Weighted(nn.Module):
    num_classes: int = 2
    skipped: int = 0
    frequencies: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Counting(Classification):
    frequencies: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Needless(Classification):
    """Names nothing, and so gets everything."""

    needs: ClassVar = {}


@dataclasses.dataclass(frozen=True)
class Unlabeled(Classification):
    """Looks at the row alone."""

    needs: ClassVar = {"image": (Row,)}


tasks.register("preparation_needless", Needless)
tasks.register("preparation_unlabeled", Unlabeled)
data.register("preparation_words", words)
models.register("preparation_weighted", Weighted)
tasks.register("preparation_counting", Counting)
recipe = Recipe(
    name="words",
    task="preparation_counting",
    model="preparation_weighted",
    data="preparation_words",
    data_options={"validation_fraction": 0},
    learning_rate=0.1,
)


def built(recipe):
    dataset = data.load(recipe.data, None, recipe.data_options)
    return preparation.build(recipe, dataset)


def test_an_array_reaches_model_and_task_and_no_recipe():
    complete, learner = built(recipe)
    expected = (*[3] * 666, 2, *[0] * 333)
    assert learner.frequencies == learner.model.frequencies == expected
    hash(learner)
    assert complete.model_options == {"num_classes": 1000, "skipped": 0, "frequencies": ()}
    # As a run directory's recipe is, when it is reopened.
    again = Recipe.from_json(json.loads(json.dumps(complete.to_json())))
    assert built(again) == (again, learner)


def test_an_option_that_the_recipe_sets_to_its_default_is_set():
    own = dataclasses.replace(recipe, model_options={"num_classes": 2})
    with pytest.raises(UsageError, match=r"model.num_classes=2 does not fit: .* has 1000"):
        built(own)


@pytest.mark.parametrize(
    ("task", "keys"),
    [("preparation_needless", {"row", "label"}), ("preparation_unlabeled", {"image", "label"})],
)
def test_an_evaluator_adds_what_it_needs_to_what_the_task_has(task, keys):
    chosen = {"predictions": evaluators.create("predictions")}
    dataset = data.load(recipe.data, None, recipe.data_options)
    needs = preparation.needs(tasks.kind(task), chosen, dataset)
    assert dataset.provide(needs).features.keys() == keys


def test_a_size_is_at_least_1_and_what_is_0_by_default_is_no_size():
    models.create(recipe.model, skipped=0)
    with pytest.raises(UsageError, match="num_classes=0: it must be at least 1"):
        models.create(recipe.model, num_classes=0)


def test_an_array_that_the_recipe_gives_stays():
    own = dataclasses.replace(recipe, task_options={"frequencies": (1, 2)})
    complete, learner = built(own)
    assert learner.frequencies == complete.task_options["frequencies"] == (1, 2)


IRIS = Recipe(
    name="iris",
    task="classification",
    model="softmax_regression",
    data="iris",
    learning_rate=0.1,
    batch_size=16,
)


def test_overfit_takes_examples_of_all_classes_by_the_seed():
    def few(seed):
        recipe = dataclasses.replace(IRIS, overfit=6, seed=seed)
        split = preparation.prepare(recipe).dataset.splits["train"]
        return np.bincount(split.fetch(np.arange(6))["label"]).tolist(), split.indices.tolist()

    assert few(0)[0] == [2, 2, 2]
    assert few(0) != few(1)


def test_several_processes_compare_what_they_have_read(monkeypatch):
    told = []
    monkeypatch.setattr(processes, "compare", told.append)
    preparation.prepare(IRIS)
    assert not told
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    # Another split of the examples is other examples; another order of them is none.
    split = dataclasses.replace(IRIS, data_options={"split_seed": 1})
    for recipe in (IRIS, dataclasses.replace(IRIS, seed=1), split):
        preparation.prepare(recipe, Settings(parallelism="data"))
    one, same, other = told
    assert one == same
    assert one["the number of examples in train"] > 0
    assert one["the data's label"]["names"] == ["setosa", "versicolor", "virginica"]
    differing = {name for name in one if one[name] != other[name]}
    assert differing >= {"the fingerprint of train", "the fingerprint of validation"}
    assert all(name.startswith("the fingerprint of ") for name in differing)
    json.dumps(one)


@pytest.mark.parametrize(
    "fields", [{"batch_size": 64, "accumulate": 64}, {"batch_size": 1}], ids=["parts", "batch"]
)
def test_batch_normalization_of_one_value_is_refused_before_any_work(fields):
    degenerate = Recipe(
        name="iris",
        task="classification",
        model="mlp",
        model_options={"hidden": (5,), "normalization": "batch"},
        data="iris",
        learning_rate=0.1,
        **fields,
    )
    message = "batch normalization of hidden0_norm sees one value .* batch_size, lower accumulate"
    with pytest.raises(UsageError, match=message):
        preparation.prepare(degenerate)
