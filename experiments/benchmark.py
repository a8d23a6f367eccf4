"""Times whole train steps: `python -m experiments.benchmark --batch_size=128`.

Prints the ratio of the launcher's time for a step (batches made, placed, records written) to that
of the same compiled step in a bare loop over batches that lie on the device; with `--against=xla`
also how long the model's step takes there with its kernels by another implementation. These are
interleaved in one run, since machines drift; the median of the rounds counts. A ResNet-50's step in
PyTorch follows, where `--torch` names a Python that has it.
"""

import dataclasses
import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any, override

import jax

from dlcore import models
from dlcore.errors import UsageError
from dlcore.train import Recipe, Settings, loop
from dlcore.train.callbacks import Callback, ProgressBar, Record
from dlcore.train.preparation import Prepared, prepare
from experiments import flags, peers, recipes, tables
from kernels import timing

# Steps before the clock starts (compilation, the first batches, full pipelines), and between the
# records of the metrics, as in a long training.
WARM_UP = 100


class Clock(Callback):
    """Notes when the warm-up ends and when the record of the last step is written."""

    @override
    def on_record(self, record: Record) -> None:
        if record["split"] != "train":
            return
        if record["step"] == WARM_UP:
            self.started = time.perf_counter()
        self.ended = time.perf_counter()


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program and of the recipe."""
    recipe = flags.peek(argv, "recipe") or "lenet5_digits"
    flags.define_one(values, "recipe", "lenet5_digits", "Recipe whose step is timed.")
    flags.define_one(values, "steps", 200, "Steps in a round.")
    flags.define_one(values, "rounds", 5, "Rounds of each; the median counts.")
    flags.define_one(values, "against", "", "As --kernels, of another step that is timed, too.")
    flags.define_one(values, "torch", "", "A Python that has PyTorch, for --model=resnet50.")
    flags.define_dataclass(values, Settings)
    flags.define_recipe(values, recipes.get(recipe), argv)


def main(values: flags.FlagValues) -> None:
    """Times them, round by round, and prints medians and ratios."""
    if values.steps < 1 or values.rounds < 1:
        raise UsageError("--steps and --rounds must be at least 1")
    recipe = flags.read_recipe(values, recipes.get(values.recipe))
    settings = flags.read_dataclass(values, Settings)
    if values.torch:
        _check_peer(recipe)
    prepared = prepare(recipe, settings)
    calls = [functools.partial(timed, prepared) for timed in (launcher_seconds, bare_seconds)]
    if values.against:
        settings = dataclasses.replace(settings, kernels=values.against)
        calls.append(functools.partial(bare_seconds, prepare(recipe, settings)))
    rounds = [[call(values.steps) for call in calls] for _ in range(values.rounds)]
    columns = list(zip(*rounds, strict=True))
    launcher, bare, *others = (statistics.median(column) * 1e3 for column in columns)
    rows = {
        "device": f"{jax.devices()[0].device_kind}, {jax.device_count()} of them",
        "launcher, milliseconds a step": launcher,
        "bare loop, milliseconds a step": bare,
        "ratio": _ratio(columns[0], columns[1]),
    }
    for other in others:
        rows[f"bare loop with --kernels={values.against}, milliseconds a step"] = other
        rows["its ratio to the bare loop"] = _ratio(columns[2], columns[1])
    if values.torch:
        effort = timing.Effort(values.steps, values.rounds)
        for name, seconds in torch_seconds(values.torch, prepared, effort).items():
            rows[f"{name}, milliseconds a step"] = seconds * 1e3
    print(tables.aligned(rows))


def _check_peer(recipe: Recipe) -> None:
    """Raises UsageError where PyTorch's network would be another one."""
    if recipe.model != "resnet50":
        raise UsageError(f"--torch has a ResNet-50: --model=resnet50, not {recipe.model}")
    defaults = models.defaults(recipe.model)
    for name in ("blocks", "bottleneck"):
        if recipe.model_options.get(name, defaults[name]) != defaults[name]:
            raise UsageError(f"--torch has a ResNet-50: leave out --model.{name}")


def _ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """The median over rounds."""
    return statistics.median(time / other for time, other in zip(times, others, strict=True))


def torch_seconds(python: str, prepared: Prepared, effort: timing.Effort) -> dict[str, float]:
    """Seconds of a step of the same network on images of the same size in PyTorch."""
    recipe, dataset = prepared.recipe, prepared.dataset
    prepare = functools.partial(dataset.transform, train=True)
    batch = dataset.train_batches(recipe.batch_size, recipe.seed).batch(0)
    images = jax.eval_shape(prepare, batch, jax.random.key(0))["image"]
    options = recipe.model_options
    classes, dtype = options["num_classes"], options["dtype"]
    return peers.resnet50_seconds(python, images.shape, classes, dtype, effort)


def launcher_seconds(prepared: Prepared, steps: int) -> float:
    """Seconds a step in the loop of a training, progress bar and records included."""
    plan = loop.Plan(
        num_steps=WARM_UP + steps,
        steps_per_epoch=prepared.plan.steps_per_epoch,
        # A record waits for the device, so the clock is read at one.
        log_every=WARM_UP,
        # Evaluations and checkpoints are other work than the step's: none before the end.
        evaluate_every=WARM_UP + steps,
        watched_metric=None,
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        loop.Loop(
            prepared.program,
            prepared.dataset,
            plan,
            pathlib.Path(directory),
            seed=prepared.recipe.seed,
            callbacks=[ProgressBar(), clock],
        ).run()
    return (clock.ended - clock.started) / steps


def bare_seconds(prepared: Prepared, steps: int) -> float:
    """Seconds a step of the same compiled step over batches that are on the device."""
    program, dataset, recipe = prepared.program, prepared.dataset, prepared.recipe
    stream = dataset.train_batches(recipe.batch_size, recipe.seed).start(0)
    batches = [program.parallelism.place_batch(next(stream)) for _ in range(8)]
    state: Any = program.parallelism.place_state(program.initialize())
    for step in range(WARM_UP):
        state, _ = program.step(state, batches[step % len(batches)])
    jax.block_until_ready(state)
    started = time.perf_counter()
    for step in range(steps):
        state, _ = program.step(state, batches[step % len(batches)])
    jax.block_until_ready(state)
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    flags.run(main, define)
