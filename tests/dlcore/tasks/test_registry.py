"""The registry of tasks, and what every task says of itself."""

import pytest

from dlcore import models, parallel, tasks
from dlcore.errors import UsageError
from dlcore.tasks.classification import Classification

MODEL = models.create("softmax_regression")


def test_a_task_is_made_by_name_with_its_options():
    task = tasks.create("classification", MODEL, label_smoothing=0.1)
    assert task == Classification(model=MODEL, label_smoothing=0.1)


@pytest.mark.parametrize("name", tasks.listed())
def test_every_task_is_made_with_its_default_options_each_of_them_documented(name):
    task = tasks.create(name, MODEL)
    for option, value in tasks.defaults(name).items():
        assert getattr(task, option) == value
        assert f"{option}: " in type(task).__doc__


@pytest.mark.parametrize("name", tasks.listed())
def test_every_task_says_what_it_needs_what_is_watched_and_how_it_is_laid_out(name):
    kind = tasks.kind(name)
    assert kind.needs
    assert kind.watched_mode in {"min", "max"}
    assert kind.parallelisms
    assert set(kind.parallelisms) <= set(parallel.NAMES)
    assert set(kind.state_kinds.values()) <= {"examples", "replicated", "device"}


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown task 'regresion': did you mean"):
        tasks.create("regresion", MODEL)


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="no option 'smoothing': it has criterion, label"):
        tasks.create("classification", MODEL, smoothing=0.1)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'classification' is registered twice"):
        tasks.register("classification", Classification)
