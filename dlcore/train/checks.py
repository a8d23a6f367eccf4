"""What a recipe must hold before any work starts: numbers in range, and parts that fit together."""

import dataclasses
import re
from collections.abc import Mapping

from dlcore import data, models, ranges
from dlcore.errors import UsageError
from dlcore.evaluators import Evaluator
from dlcore.tasks import Learner
from dlcore.train.recipe import Recipe

# What every run directory may have.
_FOLDERS = (
    "checkpoints",
    "damaged",
    "evaluations",
    "phases",
    "plots",
    "profile",
    "tensorboard",
)


def numbers(recipe: Recipe) -> None:
    """Raises UsageError where a number of the recipe itself is out of range."""
    ranges.check(recipe)
    if recipe.start_mapping and not recipe.start_from:
        raise UsageError(f"start_mapping={recipe.start_mapping} needs weights: set start_from")
    _plateau(recipe)
    _pruning(recipe)


def _plateau(recipe: Recipe) -> None:
    reacts = recipe.schedule == "plateau"
    if reacts and recipe.plateau_patience < 1:
        raise UsageError(
            f"plateau_patience={recipe.plateau_patience}: schedule=plateau needs at least 1"
        )
    if reacts and recipe.decay_factor == 1:
        raise UsageError(
            "decay_factor=1.0 leaves the learning rate as it is: schedule=plateau needs less"
        )
    if reacts and 0 < recipe.patience <= recipe.plateau_patience:
        raise UsageError(
            f"patience={recipe.patience} ends the run before schedule=plateau lowers the "
            f"learning rate: it must be more than plateau_patience={recipe.plateau_patience}"
        )
    if recipe.restart_from_best and not reacts:
        raise UsageError(
            "restart_from_best goes back when the learning rate is lowered by "
            f"schedule=plateau: schedule={recipe.schedule} does not react"
        )


def _pruning(recipe: Recipe) -> None:
    if recipe.prune_fraction and recipe.prune_epoch >= recipe.num_epochs:
        raise UsageError(
            f"prune_epoch={recipe.prune_epoch}: it must be less than num_epochs={recipe.num_epochs}"
        )
    if recipe.prune_fraction and recipe.ema_decay:
        raise UsageError(
            f"ema_decay={recipe.ema_decay} would remember what prune_fraction="
            f"{recipe.prune_fraction} takes away: use ema_decay=0"
        )


def phases(recipe: Recipe) -> None:
    """Raises UsageError where phases and needed runs cannot be told apart, or a phase goes too far.

    Each has a folder of its name in the run directory, and `start_from` knows it under that name.
    """
    names = [phase.name for phase in recipe.phases]
    if len(set(names)) < len(names):
        raise UsageError(f"recipe {recipe.name!r} has two phases of one name: {', '.join(names)}")
    for name in (*names, *recipe.needs):
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UsageError(
                f"recipe {recipe.name!r} has a part called {name!r}, which names a folder: use "
                "letters, digits and _.- only"
            )
        if name in recipe.needs and name in (*names, *_FOLDERS):
            raise UsageError(
                f"recipe {recipe.name!r} needs a run called {name!r}: a phase has that name, or a "
                "folder of every run: choose another one"
            )
    whole = {"name", "description", "expected", "imports", "needs", "phases", "seed"}
    known = {field.name for field in dataclasses.fields(recipe)} - whole
    for phase in recipe.phases:
        if strange := sorted(phase.overrides.keys() - known):
            raise UsageError(
                f"phase {phase.name!r} cannot have {strange[0]!r} of its own: "
                + ("it is the whole run's" if strange[0] in whole else "a recipe has no such field")
            )


def parts(
    recipe: Recipe, learner: Learner, dataset: data.Dataset, evaluators: Mapping[str, Evaluator]
) -> None:
    """Raises UsageError where learner, model, data and evaluators do not fit each other."""
    crops = recipe.data_options.get("test_crops", 1)
    if crops > 1 and not learner.averages_views:
        raise UsageError(
            f"data.test_crops={crops} needs a task that averages over them, as classification "
            f"does: task={recipe.task} does not"
        )
    _model(recipe, learner)
    counts = recipe.schedule not in ("constant", "plateau") or recipe.warmup_steps
    if (counts or recipe.prune_fraction) and not learner.one_update_a_step:
        raise UsageError(
            f"task={recipe.task} updates several times a step, by which a schedule would run "
            "ahead: use schedule=constant, warmup_steps=0 and prune_fraction=0"
        )
    watched = learner.watched_metric and "validation" in dataset.splits
    waits = {
        f"patience={recipe.patience}": recipe.patience,
        "schedule=plateau": recipe.schedule == "plateau",
    }
    waiting = next((field for field, is_set in waits.items() if is_set), None)
    if waiting and not watched:
        raise UsageError(
            f"{waiting} needs a validation split and a metric to watch: "
            f"task={recipe.task} on data={recipe.data} has "
            + ("no validation split" if learner.watched_metric else "no such metric")
        )
    for name, evaluator in evaluators.items():
        if not isinstance(learner, evaluator.ability):
            raise UsageError(
                f"evaluators={recipe.evaluators}: {name!r} is for a task that "
                f"{evaluator.ability.__name__.lower()}: task={recipe.task} does not"
            )
        if missing := [role for role in evaluator.needed if role not in recipe.needs]:
            raise UsageError(
                f"evaluators={recipe.evaluators}: {name!r} needs a trained {missing[0]}: name its "
                f"recipe (needs.{missing[0]}), or drop it by -{name}"
            )


def _model(recipe: Recipe, learner: Learner) -> None:
    protocol = learner.model_protocol
    if not isinstance(learner.model, protocol):
        required = getattr(protocol, "__protocol_attrs__", ())
        lacking = sorted(name for name in required if not hasattr(learner.model, name))
        raise UsageError(
            f"model={recipe.model} does not fit task={recipe.task}: it has no {', '.join(lacking)}"
        )
    entry = models.entry(recipe.model)
    outputs = entry.output_shapes
    heads = outputs is not None and not isinstance(outputs[0], int)
    wanted, inputs = learner.model_inputs, len(entry.example_inputs)
    if wanted and ((inputs and inputs != wanted) or heads):
        raise UsageError(
            f"model={recipe.model} does not fit task={recipe.task}: it has {inputs} input(s) and "
            f"{len(outputs) if heads else 1} output(s), where {wanted} and 1 are needed"
        )
