"""The page of ingredients names things that are there, and leaves none out."""

import pathlib
import pkgutil
import re

import pytest

import dlcore
from dlcore import models, optim, tasks
from dlcore.analysis import studies
from dlcore.nn import activations
from experiments import recipes

PAGE = (pathlib.Path(dlcore.__file__).parent / "README.md").read_text()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:dlcore|flax|optax|jax|experiments)(?:\.\w+)+)`", PAGE)))
)
def test_what_the_page_names_is_there(path):
    assert pkgutil.resolve_name(path) is not None


def test_every_study_is_on_the_page_and_every_study_on_the_page_is_there():
    named = set()
    for words in re.findall(r"stud(?:y|ies) ((?:`\w+`(?:, )?)+)", PAGE):
        named |= set(re.findall(r"\w+", words))
    assert named == set(studies.names())


def test_recipes_models_and_tasks_on_the_page_are_there():
    for words in re.findall(r"recipes? ((?:`\w+`(?:, )?)+)", PAGE):
        assert set(re.findall(r"\w+", words)) <= set(recipes.names())
    assert set(re.findall(r"--model=(\w+)", PAGE)) <= set(models.names())
    assert set(re.findall(r"--task=(\w+)", PAGE)) <= set(tasks.names())


def test_every_optimizer_schedule_and_activation_is_on_the_page():
    assert set(optim.builder.NAMES) == set(re.findall(r"--optimizer=(\w+)", PAGE))
    named = set("|".join(re.findall(r"--schedule=([\w\\|]+)", PAGE)).replace("\\", "").split("|"))
    assert set(optim.schedules.NAMES) == named
    assert set(activations.NAMES) == set(re.findall(r"--model\.activation=(\w+)", PAGE))
