"""From a recipe to a training that can begin: data, model, task, optimizer, program, plan."""

import dataclasses
import functools
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import optax

from dlcore import data, models, optim, parallel, processes, tasks
from dlcore.data.text import TextDataset
from dlcore.errors import UsageError
from dlcore.train import loop, program
from dlcore.train.callbacks import (
    Callback,
    EarlyStopping,
    LossTarget,
    Plateau,
    Profiler,
    ProgressBar,
)
from experiments import checks, recipes
from kernels import dispatch

# `--overfit`: the loss that counts as learnt by heart, and the steps it may take.
OVERFIT_LOSS = 0.01
OVERFIT_STEPS = 3000
# What `--kernels` may be.
KERNELS = ("auto", "xla", "mosaic_gpu", "mosaic_tpu")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a recipe is run on this machine; each is a flag.

    Attributes:
      data_dir: directory of prepared TFDS datasets; the environment's DLCORE_DATA_DIR by default.
      parallelism: how the batch is laid out: jit (one device), pmap, data, fsdp.
      kernels: implementation of the kernels that a model calls: auto, xla, mosaic_gpu, mosaic_tpu.
      checkpoint_every: steps between checkpoints, beside the one after each evaluation; 0 for none.
      keep: how many of the newest checkpoints stay, beside the best.
      on_nonfinite: what a non-finite loss or gradient does: stop, or skip that update.
      step_timeout: seconds without progress that end the run; 0 picks 600, or 20 if --distributed.
      profile: write a trace of steps 10 to 15 into the run directory.
    """

    data_dir: str = ""
    parallelism: str = "jit"
    kernels: str = "auto"
    checkpoint_every: int = 0
    keep: int = 2
    on_nonfinite: str = "stop"
    step_timeout: float = 0.0
    profile: bool = False

    def __post_init__(self) -> None:
        if self.kernels not in KERNELS:
            raise UsageError(
                f"--kernels={self.kernels}: it is {', '.join(KERNELS[:-1])} or {KERNELS[-1]}"
            )
        if self.kernels.startswith("mosaic") and self.parallelism == "fsdp":
            raise UsageError(
                f"--kernels={self.kernels}: under --parallelism=fsdp the compiler splits every "
                "operation, and it cannot split a Pallas kernel: use xla, or --parallelism=data"
            )
        if self.on_nonfinite not in ("stop", "skip"):
            raise UsageError(f"--on_nonfinite={self.on_nonfinite}: it is stop or skip")
        for name in ("checkpoint_every", "step_timeout"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name}={getattr(self, name)}: it must not be negative")
        if self.keep < 1:
            raise UsageError(f"--keep={self.keep}: at least one checkpoint has to stay")


@dataclasses.dataclass(frozen=True)
class Session:
    """All that a training needs, checked and ready.

    Attributes:
      recipe: complete, with what the dataset settled (the number of classes).
      dataset: what is learnt.
      program: what runs on the devices.
      plan: how long, how often.
    """

    recipe: recipes.Recipe
    dataset: data.Dataset
    program: program.Program
    plan: loop.Plan


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that a second start need not compile."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "dlcore" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def complete(recipe: recipes.Recipe, dataset: data.Dataset) -> recipes.Recipe:
    """The recipe with the options that the dataset settles, where the recipe leaves them open.

    A model's `num_classes` and `vocabulary_size` follow the dataset unless they were overridden.

    Raises:
      UsageError: they were overridden with another number.
    """
    known = models.defaults(recipe.model)
    options = {**known, **recipe.model_options}
    sizes = {"num_classes": len(dataset.class_names)} if dataset.class_names else {}
    if isinstance(dataset, TextDataset):
        sizes["vocabulary_size"] = len(dataset.vocabulary)
    for option, size in sizes.items():
        if option in known:
            if options[option] == known[option]:
                options[option] = size
            if options[option] != size:
                raise UsageError(
                    f"--model.{option}={options[option]} does not fit: {recipe.data} has {size}"
                )
    return dataclasses.replace(
        recipe,
        model_options=options,
        task_options={**tasks.defaults(recipe.task), **recipe.task_options},
        data_options=dataclasses.asdict(data.Options(**recipe.data_options)),
    )


def prepare(
    recipe: recipes.Recipe, settings: Settings, devices: parallel.Devices | None = None
) -> Session:
    """Builds everything that a recipe names; nothing is compiled or written yet.

    Args:
      recipe: what is trained.
      settings: how, on this machine.
      devices: to train on; those present by default.

    Raises:
      UsageError: something in the recipe, the settings or the data has to be mended.
    """
    checks.numbers(recipe)
    parallelism = parallel.make(settings.parallelism, tasks.kind(recipe.task).parallelisms, devices)
    dataset = data.load(recipe.data, settings.data_dir or None, data.Options(**recipe.data_options))
    recipe = complete(recipe, dataset)
    if recipe.overfit:
        dataset = _overfit(dataset, recipe)
    recipe = dataclasses.replace(recipe, batch_size=_batch_size(recipe, dataset, parallelism))
    task = tasks.create(recipe.task, model(recipe, settings), **recipe.task_options)
    checks.parts(recipe, task, dataset)
    batches = dataset.train_batches(recipe.batch_size, recipe.seed)
    steps_per_epoch = batches.steps_per_epoch
    plan = _plan(recipe, settings, task, steps_per_epoch)
    schedule = _schedule(recipe, plan.num_steps)
    # A Pallas kernel is out of the question where the compiler splits every operation.
    using = functools.partial(
        dispatch.using, "xla" if settings.parallelism == "fsdp" else settings.kernels
    )
    try:
        built = using()(program.build)(
            task,
            _optimizer(recipe, schedule, recipe.prune_epoch * steps_per_epoch),
            schedule,
            dataset.transform,
            batches.batch(0),
            parallelism,
            seed=recipe.seed,
            log_every=plan.log_every,
            accumulate=recipe.accumulate,
            ema_decay=recipe.ema_decay,
            initializer=recipe.initializer,
            recompute_statistics=recipe.recompute_statistics,
        )
    except dispatch.RefusedError as error:
        raise UsageError(f"--kernels={settings.kernels}: {error}") from error
    step: Any = using()(built.step)
    step.lower = using()(getattr(built.step, "lower"))  # noqa: B009
    built = dataclasses.replace(
        built,
        step=step,
        evaluate=using()(built.evaluate),
        moments=built.moments and using()(built.moments),
        initialize=using()(built.initialize),
    )
    return Session(recipe=recipe, dataset=dataset, program=built, plan=plan)


def model(recipe: recipes.Recipe, settings: Settings) -> nn.Module:
    """The recipe's model.

    Raises:
      UsageError: there is no such model or option, or it calls no kernel.
    """
    created = models.create(recipe.model, **recipe.model_options)
    if settings.kernels != "auto" and not _calls_kernels(recipe.model):
        raise UsageError(
            f"--kernels={settings.kernels}: --model={recipe.model} calls no kernel: use auto"
        )
    return created


def _calls_kernels(name: str) -> bool:
    with dispatch.using("xla") as within:
        init = functools.partial(models.create(name).init, jax.random.key(0))
        jax.eval_shape(init, *models.entry(name).example_inputs)
    return bool(within.choices)


def _overfit(dataset: data.Dataset, recipe: recipes.Recipe) -> data.Dataset:
    if recipe.overfit < 1 or recipe.overfit > dataset.num_examples("train"):
        raise UsageError(
            f"--overfit={recipe.overfit}: it must be from 1 to "
            f"{dataset.num_examples('train')}, the training examples of {recipe.data}"
        )
    if hasattr(tasks.kind(recipe.task), "update"):
        raise UsageError(
            f"--overfit needs a task that descends one loss: {recipe.task} has a rule of its own"
        )
    return dataset.limited(recipe.overfit)


def _batch_size(
    recipe: recipes.Recipe, dataset: data.Dataset, parallelism: parallel.Parallelism
) -> int:
    """The recipe's batch size, or the one that follows from its other fields."""
    size, flag = recipe.batch_size or dataset.num_examples("train"), "--batch_size=0"
    if recipe.overfit:
        # A text is read in one piece: a row's first characters have no context to be known from.
        largest = 1 if isinstance(dataset, TextDataset) else recipe.overfit
        size, flag = min(size, largest), f"--overfit={recipe.overfit}"
    if size != recipe.batch_size and size % (parallelism.device_count * recipe.accumulate):
        raise UsageError(
            f"{flag} makes the batch {size}, which does not divide over the "
            f"{parallelism.device_count} device(s) of --parallelism={parallelism.name} and "
            f"--accumulate={recipe.accumulate}: use --parallelism=jit and --accumulate=1"
        )
    parallelism.check_batch_size(size, recipe.accumulate)
    return size


def _plan(
    recipe: recipes.Recipe, settings: Settings, task: tasks.Task, steps_per_epoch: int
) -> loop.Plan:
    return loop.Plan(
        num_steps=OVERFIT_STEPS if recipe.overfit else steps_per_epoch * recipe.num_epochs,
        steps_per_epoch=steps_per_epoch,
        log_every=recipe.log_every or min(100, steps_per_epoch),
        evaluate_every=20 if recipe.overfit else steps_per_epoch * recipe.evaluate_every,
        checkpoint_every=settings.checkpoint_every,
        keep=settings.keep,
        watched_metric=task.watched_metric,
        watched_mode=task.watched_mode,
        # What is to be pruned yet is no candidate.
        watched_after=recipe.prune_epoch * steps_per_epoch if recipe.prune_fraction else 0,
        restart_from_best=recipe.restart_from_best,
        on_nonfinite=settings.on_nonfinite,
        step_timeout=settings.step_timeout
        or (processes.STEP_TIMEOUT_SECONDS if jax.process_count() > 1 else 600.0),
    )


def _schedule(recipe: recipes.Recipe, num_steps: int) -> optax.Schedule:
    return optim.schedules.build(
        recipe.schedule,
        recipe.learning_rate,
        num_steps,
        recipe.warmup_steps,
        decay_steps=recipe.decay_steps,
        decay_factor=recipe.decay_factor,
    )


def _optimizer(
    recipe: recipes.Recipe, schedule: optax.Schedule, prune_step: int
) -> optax.GradientTransformation:
    # Every option of an optimizer is a field of the recipe, under the same name.
    fields = dataclasses.fields(optim.builder.Options)
    options = {field.name: getattr(recipe, field.name) for field in fields}
    optimizer = optim.builder.build(
        recipe.optimizer, schedule, optim.builder.Options(**options), recipe.seed
    )
    if not recipe.prune_fraction:
        return optimizer
    return optax.chain(
        optimizer, optim.pruning.prune_by_magnitude(recipe.prune_fraction, prune_step)
    )


def callbacks(session: Session, workdir: pathlib.Path, settings: Settings) -> list[Callback]:
    """Who listens to the training."""
    chosen: list[Callback] = []
    recipe, metric = session.recipe, session.plan.watched_metric
    if jax.process_index() == 0:
        chosen.append(ProgressBar())
    if metric and not recipe.overfit:
        watched: dict[str, Any] = {
            "metric": metric,
            "mode": session.plan.watched_mode,
            "first_step": session.plan.watched_after,
        }
        if recipe.schedule == "plateau":
            patience = recipe.plateau_patience
            chosen.append(Plateau(recipe.decay_factor, patience=patience, **watched))
        if recipe.patience:
            chosen.append(EarlyStopping(patience=recipe.patience, **watched))
    if recipe.overfit:
        chosen.append(LossTarget(OVERFIT_LOSS))
    if settings.profile:
        chosen.append(Profiler(workdir / "profile"))
    return chosen
