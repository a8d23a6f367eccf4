"""What a recipe must hold before any work starts: numbers in range, and parts that fit together."""

from typing import Any

from dlcore import data, models
from dlcore.errors import UsageError
from dlcore.tasks import Task
from experiments import recipes


def numbers(recipe: recipes.Recipe) -> None:
    """Raises UsageError where a number of the recipe itself is out of range."""
    for name in ("batch_size", "num_epochs", "accumulate", "evaluate_every"):
        if getattr(recipe, name) < 1:
            raise UsageError(f"--{name}={getattr(recipe, name)}: it must be at least 1")
    for name in ("patience", "log_every", "seed"):
        if getattr(recipe, name) < 0:
            raise UsageError(f"--{name}={getattr(recipe, name)}: it must not be negative")
    if not 0 <= recipe.ema_decay < 1:
        raise UsageError(f"--ema_decay={recipe.ema_decay}: it must be in [0, 1)")
    for option, value in recipe.model_options.items():
        sizes = value if isinstance(value, tuple) else (value,)
        if any(_is_integer(size) and size < 1 for size in sizes):
            raise UsageError(f"--model.{option}={value}: sizes must be at least 1")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def parts(recipe: recipes.Recipe, task: Task, dataset: data.Dataset) -> None:
    """Raises UsageError where task, model, data and judge do not fit each other."""
    if dataset.kind != task.data_kind:
        raise UsageError(
            f"--task={recipe.task} learns from {task.data_kind} data, "
            f"--data={recipe.data} is {dataset.kind}"
        )
    missing = [name for name in task.model_methods if not hasattr(task.model, name)]
    extra = not task.model_methods and len(models.entry(recipe.model).example_inputs) > 1
    if missing or extra:
        raise UsageError(
            f"--model={recipe.model} does not fit --task={recipe.task}: "
            + (f"it has no {', '.join(missing)}" if missing else "it takes more than an image")
        )
    moving = recipe.schedule != "constant" or recipe.warmup_steps
    if moving and not task.one_update_a_step:
        raise UsageError(
            f"--task={recipe.task} updates several times a step, by which a schedule would run "
            "ahead: use --schedule=constant and --warmup_steps=0"
        )
    watched = task.watched_metric and "validation" in dataset.splits
    if recipe.patience and not watched:
        raise UsageError(
            f"--patience={recipe.patience} needs a validation split and a metric to watch: "
            f"--task={recipe.task} on --data={recipe.data} has "
            + ("no validation split" if task.watched_metric else "no such metric")
        )
    if recipe.judge:
        recipes.get(recipe.judge)
        if recipe.task != "gan":
            raise UsageError(f"--judge={recipe.judge} judges images: --task={recipe.task} has none")
