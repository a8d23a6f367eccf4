"""The registry of tasks, and what a task has before it adds anything."""

import dataclasses

import jax.numpy as jnp
import pytest

from dlcore import models, tasks
from dlcore.errors import UsageError
from dlcore.tasks.classification import Classification

MODEL = models.create("softmax_regression")


class Watcher(tasks.Learner):
    """A task with nothing of its own."""

    def init(self, key, batch):
        return {"params": {}}

    def update(self, state, batch, key, optimizer):
        return state, {}

    def evaluate(self, variables, batch, key):
        return {}


def test_a_task_is_made_by_name_with_its_options():
    task = tasks.create("classification", MODEL, label_smoothing=0.1)
    assert task == Classification(model=MODEL, label_smoothing=0.1)


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_is_made_with_its_default_options(name):
    task = tasks.create(name, MODEL)
    for option, value in tasks.defaults(name).items():
        assert getattr(task, option) == value


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_names_parallelisms_that_exist_and_a_direction_to_watch(name):
    task = tasks.create(name, MODEL)
    assert task.parallelisms
    assert set(task.parallelisms) <= {"jit", "pmap", "data", "fsdp"}
    assert task.watched_mode in {"min", "max"}


@pytest.mark.parametrize("name", tasks.names())
def test_every_option_of_a_task_is_documented(name):
    for option in tasks.defaults(name):
        assert f"{option}: " in type(tasks.create(name, MODEL)).__doc__


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown task 'regresion': did you mean"):
        tasks.create("regresion", MODEL)


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="no option 'smoothing': it has criterion, label"):
        tasks.create("classification", MODEL, smoothing=0.1)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'classification' is registered twice"):
        tasks.register("classification", Watcher)


def test_a_task_is_frozen():
    task = tasks.create("classification", MODEL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.label_smoothing = 0.5


def test_a_model_of_images_is_described_by_the_images():
    images = jnp.zeros((2, 4, 4, 1))
    assert Watcher(MODEL).describe_inputs({"image": images, "label": jnp.zeros(2)}) == (images,)
