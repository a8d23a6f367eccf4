"""Times whole train steps: `python -m experiments.benchmark --torch=.peers/bin/python`.

For each recipe it prints, in milliseconds a step:

- launcher: a training as `experiments.train` has it, in which batches are made, placed and prepared
  and records written;
- bare step: the same compiled step, preparation included, over raw batches on the device;
- with `--against=xla`, that step with its kernels by another implementation;
- with `--torch=PYTHON`, the step without preparation over prepared batches on the device, and over
  the same batches the step of the twin in PyTorch, with `--torch_compile` the compiled one, too.

They take turns on the same cores, round by round, since machines drift. A time is the median of the
rounds, a ratio the median of the rounds' ratios. Each field of a single recipe is a flag.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from dlcore.errors import UsageError
from dlcore.ranges import AboveZero, Positive
from dlcore.train import Recipe, Session, Settings, fit
from dlcore.train.preparation import Prepared
from dlcore.train.program import Program, build
from experiments import flags, recipes, tables
from experiments.pytorch import PyTorch, write_batches
from experiments.turns import LAUNCHER, Steps, Timed, take_turns

# What is timed by default; the latter where their data are.
BUNDLED = ("lenet5_digits", "resnet20_digits")
DOWNLOADED = (
    "mlp_mnist",
    "resnet20_cifar10_short",
    "vgg_cifar10_short",
    "uva_densenet_cifar10_16x16",
    "char_lstm_shakespeare",
)
# Batches that a step goes through in turn.
ROTATION = 8

BARE, OTHER = "bare step", "bare step with other kernels"
PURE, TORCH, COMPILED = "step on prepared batches", "PyTorch's step", "PyTorch's compiled step"
RATIOS = ((LAUNCHER, BARE), (OTHER, BARE), (PURE, TORCH), (PURE, COMPILED))


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program and, where there is one recipe, of that."""
    known = f"{', '.join((*BUNDLED, *DOWNLOADED))}, as far as there are data"
    flags.define_one(values, "recipes", [], f"Recipes with commas; by default {known}.", list)
    flags.define_one(
        values, "seconds", 2.0, "About how long each of them runs in a round.", AboveZero
    )
    flags.define_one(values, "rounds", 5, "Rounds that count; one more goes before them.", Positive)
    flags.define_one(values, "against", "", "As --kernels, of another step that is timed, too.")
    flags.define_one(values, "torch", "", "A Python that has PyTorch; `make peers` makes one.")
    flags.define_one(values, "torch_compile", False, "Time PyTorch's compiled step, too.")
    flags.define_dataclass(values, Settings)
    names = (flags.peek(argv, "recipes") or "").split(",")
    if len(names) == 1 and names[0]:
        flags.define_recipe(values, recipes.get(names[0]), argv)
    else:
        meaning = "Examples in a batch of every recipe; by default as many as each has."
        flags.define_one(values, "batch_size", None, meaning, Positive)


def main(values: flags.FlagValues) -> None:
    """Prepares all recipes, then times one after another."""
    with contextlib.ExitStack() as closing:
        directory = pathlib.Path(closing.enter_context(tempfile.TemporaryDirectory()))
        torch = closing.enter_context(PyTorch(values.torch, cores())) if values.torch else None
        contests = [
            (prepared, dict(contenders(prepared, other, torch, values.torch_compile, directory)))
            for prepared, other in trainings(values)
        ]
        for prepared, timed in contests:
            rounds = take_turns(prepared, timed, values.seconds, values.rounds)
            print(f"{described(prepared)}\n{tables.aligned(rows(rounds))}\n")


def trainings(values: flags.FlagValues) -> Iterator[tuple[Prepared, Prepared | None]]:
    """The training of each recipe, and with `--against` the same one with other kernels.

    Raises:
      UsageError: one of them is wrong.
    """
    settings = flags.read_dataclass(values, Settings)
    other = values.against and dataclasses.replace(settings, kernels=values.against)
    for recipe in chosen(values, settings):
        prepared = Session(recipe, settings).prepared
        fit.check(prepared)
        yield prepared, other and Session(recipe, other).prepared


def chosen(values: flags.FlagValues, settings: Settings) -> list[Recipe]:
    """The recipes of the command line, or the default ones whose data are there."""
    # A recipe's own 0 stands for the whole training split; one that is given is a mistake here.
    if values["batch_size"].present and values.batch_size == 0:
        raise UsageError("--batch_size=0 is no step to be timed: it must be at least 1")
    if len(values.recipes) == 1:
        return [flags.read_recipe(values, recipes.get(values.recipes[0]))]
    several = [recipes.get(name) for name in values.recipes or BUNDLED]
    if not values.recipes:
        downloaded = map(recipes.get, DOWNLOADED)
        several += [one for one in downloaded if recipes.at_hand(one, settings.data_dir)]
    if values.batch_size is None:
        return several
    return [dataclasses.replace(recipe, batch_size=values.batch_size) for recipe in several]


def contenders(
    prepared: Prepared,
    other: Prepared | None,
    torch: PyTorch | None,
    torch_compile: bool,
    directory: pathlib.Path,
) -> Iterator[tuple[str, Timed]]:
    """What is timed beside the launcher, by name.

    Raises:
      UsageError: PyTorch's twin does not follow the recipe.
    """
    program, recipe = prepared.program, prepared.recipe
    stream = prepared.dataset.train_batches(recipe.batch_size, recipe.seed).start(0)
    batches = [next(stream) for _ in range(ROTATION)]
    yield BARE, Steps(program, batches)
    if other:
        yield OTHER, Steps(other.program, batches)
    if torch:
        batches = prepare_batches(program, batches)
        yield PURE, Steps(without_preparation(prepared, batches[0]), batches)
        write_batches(directory / f"{recipe.name}.npz", batches)
        for name in (TORCH, COMPILED)[: 1 + torch_compile]:
            key = f"{recipe.name}: {name}"
            torch.make(key, prepared, directory / f"{recipe.name}.npz", name == COMPILED)
            yield name, functools.partial(torch.seconds, key)


def prepare_batches(program: Program, batches: Sequence[Any]) -> list[dict[str, np.ndarray]]:
    """The batches as the model gets them: decoded, normalized, augmented."""
    transform = jax.jit(functools.partial(program.transform, train=True))
    keys = jax.random.split(jax.random.key(0), len(batches))
    return [jax.device_get(transform(*drawn)) for drawn in zip(batches, keys, strict=True)]


def without_preparation(prepared: Prepared, batch: Mapping[str, np.ndarray]) -> Program:
    """The program of a training whose batches are prepared already."""
    program, recipe = prepared.program, prepared.recipe
    return build(
        program.learner,
        program.optimizer,
        # Of the record only: the optimizer has its own.
        optax.constant_schedule(recipe.learning_rate),
        lambda batch, key, train: batch,
        batch,
        program.parallelism,
        seed=recipe.seed,
        log_every=prepared.plan.log_every,
        accumulate=recipe.accumulate,
        ema_decay=recipe.ema_decay,
        kernels=program.kernels,
    )


def rows(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians in milliseconds, then ratios."""
    shown = {
        f"{name}, milliseconds": 1e3 * statistics.median(each[name] for each in rounds)
        for name in rounds[0]
    }
    for name, other in RATIOS:
        if {name, other} <= rounds[0].keys():
            ratio = statistics.median(each[name] / each[other] for each in rounds)
            shown[f"{name} / {other}"] = ratio
    return shown


def described(prepared: Prepared) -> str:
    """What is timed: recipe, model, a prepared batch, device."""
    program, recipe = prepared.program, prepared.recipe
    transform = functools.partial(program.transform, train=True)
    batch = jax.eval_shape(transform, dict(program.batch), jax.random.key(0))
    arrays = ", ".join(
        f"{name} {'x'.join(map(str, array.shape))} {array.dtype}" for name, array in batch.items()
    )
    devices = f"{jax.device_count()} of {jax.devices()[0].device_kind}, {cores()} cores"
    return f"{recipe.name} ({recipe.model}): {arrays}; {devices}"


def cores() -> int:
    """How many this process may use, and its children."""
    # Not every system can bind a process to some.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    flags.run(main, define)
