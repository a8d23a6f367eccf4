"""Train steps that take turns with a training: the clocks of `experiments.benchmark`."""

import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, override

import jax

from dlcore.train import loop
from dlcore.train.callbacks import Callback, ProgressBar, Record
from dlcore.train.preparation import Prepared
from dlcore.train.program import Program

LAUNCHER = "launcher"

# Takes a number of steps; the seconds of one.
Timed = Callable[[int], float]


class Steps:
    """A program's compiled step in a bare loop over batches on the device; it goes on each time."""

    def __init__(self, program: Program, batches: Sequence[Any]) -> None:
        self._program, self._raw = program, batches
        self._batches: Iterator[Any] | None = None

    def __call__(self, steps: int) -> float:
        """Takes this number of steps; the seconds of one."""
        step, layout = self._program.step, self._program.parallelism
        if self._batches is None:
            self._state: Any = layout.place_state(self._program.initialize())
            self._batches = itertools.cycle([layout.place_batch(batch) for batch in self._raw])
        state = jax.block_until_ready(self._state)
        started = time.perf_counter()
        for batch in itertools.islice(self._batches, steps):
            state, _ = step(state, batch)
        self._state = jax.block_until_ready(state)
        return (time.perf_counter() - started) / steps


class Turns(Callback):
    """Ends a round of the launcher at every so many steps and lets the others have theirs.

    A record waits for the device, so that nothing of the launcher's is under way while the others
    run, but for the few batches that are made ahead.
    """

    def __init__(self, timed: Mapping[str, Timed], steps: int) -> None:
        self._timed, self._steps = timed, steps
        self.rounds: list[dict[str, float]] = []

    @override
    def on_start(self, step: int, num_steps: int) -> None:
        self._started = time.perf_counter()

    @override
    def on_record(self, record: Record) -> None:
        if record["split"] != "train" or record["step"] % self._steps:
            return
        seconds = (time.perf_counter() - self._started) / self._steps
        others = {name: timed(self._steps) for name, timed in self._timed.items()}
        self.rounds.append({LAUNCHER: seconds, **others})
        self._started = time.perf_counter()


def take_turns(
    prepared: Prepared, timed: Mapping[str, Timed], seconds: float, rounds: int
) -> list[dict[str, float]]:
    """The seconds of a step by name, round by round.

    Args:
      prepared: the launcher's training.
      timed: all others, by name; the first one tells how many steps a round has.
      seconds: about how long each runs in a round.
      rounds: that count; the one before them compiles and warms up.
    """
    first = next(iter(timed.values()))
    first(3)
    steps = max(1, round(seconds / first(3)))
    log_every = min(steps, prepared.plan.log_every)
    steps -= steps % log_every
    num_steps = (1 + rounds) * steps
    turns = Turns(timed, steps)
    plan = loop.Plan(
        num_steps=num_steps,
        steps_per_epoch=prepared.plan.steps_per_epoch,
        log_every=log_every,
        # Evaluations and checkpoints are other work than the step's: none before the end.
        evaluate_every=num_steps,
        watched_metric=None,
    )
    with tempfile.TemporaryDirectory() as directory:
        loop.Loop(
            prepared.program,
            prepared.dataset,
            plan,
            pathlib.Path(directory),
            seed=prepared.recipe.seed,
            callbacks=[ProgressBar(), turns],
        ).run()
    return turns.rounds[1:]
