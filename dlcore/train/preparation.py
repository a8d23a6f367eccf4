"""From a recipe to a training that can begin: data, model, learner, optimizer, program, plan."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from dlcore import data, evaluators, models, optim, parallel, processes, tasks
from dlcore.data.text import TextDataset
from dlcore.errors import UsageError
from dlcore.evaluators import Evaluator
from dlcore.train import checks, program
from dlcore.train.loop import Plan
from dlcore.train.recipe import Recipe
from dlcore.train.settings import Settings
from kernels import dispatch

# `overfit`: the loss that counts as learned by heart, and the steps it may take.
OVERFIT_LOSS = 0.01
OVERFIT_STEPS = 3000
# Facts of a dataset that an option of the same name has to agree with.
_BINDING = ("num_classes", "vocabulary_size")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """All that a training, or one phase of it, needs: checked and ready.

    Attributes:
      recipe: complete, with what the dataset settled (the number of classes).
      dataset: what is learned.
      program: what runs on the devices.
      plan: how long, how often.
      evaluators: by name.
    """

    recipe: Recipe
    dataset: data.Dataset
    program: program.Program
    plan: Plan
    evaluators: Mapping[str, Evaluator]

    @property
    def learner(self) -> tasks.Learner:
        """What is trained."""
        return self.program.learner


def prepare(
    recipe: Recipe,
    settings: Settings | None = None,
    devices: parallel.Devices | None = None,
    opened: Callable[[], data.Dataset] | None = None,
) -> Prepared:
    """Builds everything that a recipe without phases names; nothing is compiled or written yet.

    Args:
      recipe: what is trained.
      settings: how, on this machine.
      devices: to train on; those present by default.
      opened: gives what `open_data` does, where that is known already.

    Raises:
      UsageError: something in the recipe, the settings or the data is wrong.
    """
    settings = settings or Settings()
    recipe.import_modules()
    checks.numbers(recipe)
    kind = tasks.kind(recipe.task)
    layout = parallel.make(settings.parallelism, kind.parallelisms, devices, kind.state_kinds)
    chosen = evaluators.choose(kind.evaluators, recipe.evaluators)
    processes.at("the reading of the data")
    dataset = opened() if opened else open_data(recipe, settings)
    recipe, learner = build(recipe, dataset)
    checks.parts(recipe, learner, dataset, chosen)
    if recipe.overfit:
        dataset = _overfit(dataset, recipe)
    recipe = dataclasses.replace(recipe, batch_size=_batch_size(recipe, dataset, layout))
    batches = dataset.train_batches(recipe.batch_size, recipe.seed)
    plan = _plan(recipe, settings, learner, batches.steps_per_epoch)
    schedule = _schedule(recipe, plan.num_steps)
    if jax.process_count() > 1:
        processes.at("the comparison of the data")
        processes.compare(_told(dataset))
    processes.at("the preparations")
    with dispatch.using(settings.kernels) as called:
        try:
            built = program.build(
                learner,
                _optimizer(recipe, schedule, recipe.prune_epoch * batches.steps_per_epoch),
                schedule,
                dataset.transform,
                batches.batch(0),
                layout,
                seed=recipe.seed,
                log_every=plan.log_every,
                accumulate=recipe.accumulate,
                ema_decay=recipe.ema_decay,
                initializer=recipe.initializer,
                recompute_statistics=recipe.recompute_statistics,
                # A Pallas kernel is out of the question where the compiler splits every operation.
                kernels="xla" if settings.parallelism == "fsdp" else settings.kernels,
            )
        except dispatch.RefusedError as error:
            raise UsageError(f"kernels={settings.kernels}: {error}") from error
    if settings.kernels != "auto" and not called.choices:
        raise UsageError(
            f"kernels={settings.kernels}: model={recipe.model} calls no kernel: use auto"
        )
    optim.groups.check(recipe.groups, built.abstract_state.params)
    return Prepared(recipe, dataset, built, plan, chosen)


def _told(dataset: data.Dataset) -> dict[str, Any]:
    """What two processes that read the same data both say of them."""
    description = data.describe(dataset)
    facts: dict[str, Any] = {
        f"the data's {name}": fact for name, fact in description["features"].items()
    }
    for split, count in description["counts"].items():
        facts[f"the number of examples in {split}"] = count
        facts[f"the fingerprint of {split}"] = description["fingerprints"][split]
    return facts


def needs(
    kind: type[tasks.Learner], chosen: Mapping[str, Evaluator], dataset: data.Dataset
) -> data.Needs:
    """The features that task and evaluators need together.

    Raises:
      UsageError: the dataset does not have them.
    """
    # A task that names nothing gets all that can be in a batch; evaluators must not narrow it.
    every = {key: (type(own),) for key, own in dataset.features.items() if not own.on_host}
    together = dict(kind.needs or every)
    data.match(together, dataset.features, dataset.name)
    for name, evaluator in chosen.items():
        for key, kinds in evaluator.needs.items():
            together[key] = tuple(own for own in together.get(key, kinds) if own in kinds)
        data.match(together, dataset.features, dataset.name, f"evaluator {name!r}")
    return together


def load(recipe: Recipe, settings: Settings) -> data.Dataset:
    """The recipe's dataset."""
    return data.load(recipe.data, settings.data_dir or None, recipe.data_options)


def open_data(recipe: Recipe, settings: Settings) -> data.Dataset:
    """The recipe's dataset with what task and evaluators need of it.

    Raises:
      UsageError: there is no such dataset, task or evaluator, or they do not fit.
    """
    kind = tasks.kind(recipe.task)
    chosen = evaluators.choose(kind.evaluators, recipe.evaluators)
    dataset = load(recipe, settings)
    return dataset.provide(needs(kind, chosen, dataset))


def build(recipe: Recipe, dataset: data.Dataset) -> tuple[Recipe, tasks.Learner]:
    """The complete recipe, and its learner over a dataset.

    Raises:
      UsageError: there is no such model, task or option, or one does not fit the dataset.
    """
    recipe = complete(recipe, dataset)
    of_model = _with_tables(recipe.model_options, models.defaults(recipe.model), dataset)
    of_task = _with_tables(recipe.task_options, tasks.defaults(recipe.task), dataset)
    learner = tasks.create(recipe.task, models.create(recipe.model, **of_model), **of_task)
    return recipe, learner


def _with_tables(
    options: Mapping[str, Any], defaults: Mapping[str, Any], dataset: data.Dataset
) -> dict[str, Any]:
    """Options with those facts that are arrays, as tuples: models and tasks have to be hashable."""
    tables = {
        name: tuple(dataset.facts[name].tolist())
        for name in dataset.facts.keys() & defaults.keys()
        if isinstance(dataset.facts[name], np.ndarray) and options[name] == defaults[name]
    }
    return {**options, **tables}


def complete(recipe: Recipe, dataset: data.Dataset) -> Recipe:
    """The recipe with the options that the dataset settles, where the recipe leaves them open.

    An option of the model or the task that has the name of one of the dataset's facts
    (`num_classes`, `vocabulary_size`, `image_channels`, ...) follows the dataset, unless the recipe
    sets it. A fact that is an array (`frequencies`) is too long for a recipe: the option keeps its
    default there, and `build` fills it in.

    Raises:
      UsageError: the recipe sets a number of classes or of words that the dataset does not have.
    """
    of_model = tasks.kind(recipe.task).model_facts(dataset.facts)
    known = {
        "model": (models.defaults(recipe.model), of_model),
        "task": (tasks.defaults(recipe.task), dataset.facts),
    }
    complete: dict[str, Any] = {}
    for component, (defaults, facts) in known.items():
        given: Mapping[str, Any] = getattr(recipe, f"{component}_options")
        options = {**defaults, **given}
        for name in sorted(facts.keys() & defaults.keys()):
            if name not in given and not isinstance(facts[name], np.ndarray):
                options[name] = facts[name]
            elif name in _BINDING and options[name] != facts[name]:
                raise UsageError(
                    f"{component}.{name}={options[name]} does not fit: {recipe.data} has "
                    f"{facts[name]}"
                )
        complete[f"{component}_options"] = options
    complete["data_options"] = dataclasses.asdict(dataset.options)
    return dataclasses.replace(recipe, **complete)


def _overfit(dataset: data.Dataset, recipe: Recipe) -> data.Dataset:
    if recipe.overfit < 1 or recipe.overfit > dataset.num_examples("train"):
        raise UsageError(
            f"overfit={recipe.overfit}: it must be from 1 to "
            f"{dataset.num_examples('train')}, the training examples of {recipe.data}"
        )
    if not issubclass(tasks.kind(recipe.task), tasks.Descent):
        raise UsageError(
            f"overfit={recipe.overfit} needs a task that descends one loss: task={recipe.task} has "
            "a rule of its own"
        )
    try:
        return dataset.sampled(recipe.overfit, recipe.seed)
    except UsageError as error:
        raise UsageError(f"overfit={recipe.overfit}: {error}") from error


def _batch_size(recipe: Recipe, dataset: data.Dataset, layout: parallel.Parallelism) -> int:
    """The recipe's batch size, or the one that follows from its other fields."""
    size, field = recipe.batch_size or dataset.num_examples("train"), "batch_size=0"
    if recipe.overfit:
        # A text is read in one piece: a row's first characters have no context to be known from.
        largest = 1 if isinstance(dataset, TextDataset) else recipe.overfit
        size, field = min(size, largest), f"overfit={recipe.overfit}"
    if size != recipe.batch_size and size % (layout.device_count * recipe.accumulate):
        raise UsageError(
            f"{field} makes the batch {size}, which does not divide over the "
            f"{layout.device_count} device(s) of parallelism={layout.name} and "
            f"accumulate={recipe.accumulate}: use parallelism=jit and accumulate=1"
        )
    layout.check_batch_size(size, recipe.accumulate)
    return size


def _plan(recipe: Recipe, settings: Settings, learner: tasks.Learner, steps_per_epoch: int) -> Plan:
    return Plan(
        num_steps=OVERFIT_STEPS if recipe.overfit else steps_per_epoch * recipe.num_epochs,
        steps_per_epoch=steps_per_epoch,
        log_every=recipe.log_every or min(100, steps_per_epoch),
        evaluate_every=20 if recipe.overfit else steps_per_epoch * recipe.evaluate_every,
        checkpoint_every=settings.checkpoint_every,
        keep=settings.keep,
        watched_metric=learner.watched_metric,
        watched_mode=learner.watched_mode,
        # Before the pruning no checkpoint can be the best.
        watched_after=recipe.prune_epoch * steps_per_epoch if recipe.prune_fraction else 0,
        restart_from_best=recipe.restart_from_best,
        on_nonfinite=settings.on_nonfinite,
        step_timeout=settings.step_timeout
        or (processes.STEP_TIMEOUT_SECONDS if jax.process_count() > 1 else 600.0),
    )


def _schedule(recipe: Recipe, num_steps: int) -> optax.Schedule:
    return optim.schedules.build(
        recipe.schedule,
        recipe.learning_rate,
        num_steps,
        recipe.warmup_steps,
        decay_steps=recipe.decay_steps,
        decay_factor=recipe.decay_factor,
        milestones=recipe.milestones,
    )


def _optimizer(
    recipe: Recipe, schedule: optax.Schedule, prune_step: int
) -> optax.GradientTransformation:
    optimizer = optim.builder.build(
        recipe.optimizer, schedule, recipe, recipe.seed, groups=recipe.groups
    )
    if not recipe.prune_fraction:
        return optimizer
    return optax.chain(
        optimizer,
        optim.pruning.prune_by_magnitude(recipe.prune_fraction, prune_step, recipe.groups),
    )
