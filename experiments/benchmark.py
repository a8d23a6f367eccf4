"""Times whole train steps: `python -m experiments.benchmark --batch_size=128`.

Prints the ratio of the launcher's time for a step (batches made, placed, records written) to that
of the same compiled step in a bare loop over batches that lie on the device. The two are
interleaved in one run, since machines drift; the median of the rounds counts.
"""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any, override

import jax

from dlcore.errors import UsageError
from dlcore.train import loop
from dlcore.train.callbacks import Callback, ProgressBar, Record
from experiments import flags, recipes, report, session

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
    flags.define_dataclass(values, session.Settings)
    flags.define_recipe(values, recipes.get(recipe), argv)


def main(values: flags.FlagValues) -> None:
    """Times both, round by round, and prints medians and their ratio."""
    if values.steps < 1 or values.rounds < 1:
        raise UsageError("--steps and --rounds must be at least 1")
    recipe = flags.read_recipe(values, recipes.get(values.recipe))
    prepared = session.prepare(recipe, flags.read_dataclass(values, session.Settings))
    rounds = [
        (launcher_seconds(prepared, values.steps), bare_seconds(prepared, values.steps))
        for _ in range(values.rounds)
    ]
    launcher, bare = (statistics.median(column) for column in zip(*rounds, strict=True))
    rows = {
        "device": f"{jax.devices()[0].device_kind}, {jax.device_count()} of them",
        "launcher, milliseconds a step": launcher * 1e3,
        "bare loop, milliseconds a step": bare * 1e3,
        "ratio": statistics.median(first / second for first, second in rounds),
    }
    print(report.table(rows))


def launcher_seconds(prepared: session.Session, steps: int) -> float:
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


def bare_seconds(prepared: session.Session, steps: int) -> float:
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
