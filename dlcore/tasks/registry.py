"""Learning regimes by name."""

import dataclasses
from typing import Any

import flax.linen as nn

from dlcore.registry import Registry, plain
from dlcore.tasks.learner import Learner

_tasks: Registry[type[Learner]] = Registry(
    "task",
    "dlcore.tasks",
    {
        name: [name]
        for name in (
            "binary_classification",
            "classification",
            "evolution",
            "gan",
            "language_model",
            "multi_label",
            "multitask",
            "perceptron",
            "regression",
            "self_organization",
            "sequence_classification",
        )
    },
)
register, kind = _tasks.add, _tasks.get
names, listed = _tasks.names, _tasks.listed


def defaults(name: str) -> dict[str, Any]:
    """The options of a task that a recipe can hold and their defaults."""
    return plain(_fields(name))


def create(name: str, model: nn.Module, **options: Any) -> Learner:
    """The task of that name over a model.

    Raises:
      UsageError: no such task, or it has no such option, or an option's value is out of range.
    """
    _tasks.check_options(name, options, _fields(name))
    return kind(name)(model=model, **options)


def _fields(name: str) -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(kind(name)) if f.name != "model"}
