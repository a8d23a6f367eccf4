"""Trains for hours and watches what grows: `python -m experiments.soak --minutes=60`.

Each recipe is trained in a process of its own, with a checkpoint every few steps, until its time is
over. Of the process and its run directory, memory, file descriptors, threads and disk are sampled;
what each grew by in an hour is the slope over the second half of the time, when all is compiled and
loaded.
"""

import dataclasses
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from dlcore.errors import TrainingError, UsageError
from dlcore.ranges import Positive, Range
from dlcore.train import workdir
from experiments import flags, recipes, tables

# Few numbers and many saves, a network, two players: on data that every machine has.
RECIPES = ["softmax_regression_iris", "lenet5_digits", "gan_digits"]
SAMPLES = 100
# A week at most.
Minutes = Annotated[float, Range(above=0, most=7 * 24 * 60)]


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program."""
    flags.define_one(values, "recipes", RECIPES, "Recipes to train, with commas.", list)
    flags.define_one(values, "minutes", 10.0, "How long each is trained.", Minutes)
    flags.define_one(values, "checkpoint_every", 10, "Steps between checkpoints.", Positive)
    flags.define_one(values, "workdir", "runs/soak", "Where the run directories are kept.")


def main(values: flags.FlagValues) -> None:
    """Trains one recipe after another, and prints a row for each."""
    for name in values.recipes:
        recipes.get(name)
    rows = []
    for name in values.recipes:
        directory = workdir.named(values.workdir) / name
        if directory.exists():
            raise UsageError(f"workdir={values.workdir}: there is {directory}: name a new one")
        rows.append([name, *watched(name, directory, values.minutes, values.checkpoint_every)])
    columns = [f"{field.name.replace('_', ' ')} (an hour)" for field in dataclasses.fields(Sample)]
    print(tables.markdown(["recipe", "checkpoints", *columns[1:]], rows))


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a training occupies.

    Attributes:
      hours: since it began.
      memory_MB: resident.
      descriptors: open files and sockets.
      threads: of the process.
      disk_MB: of the run directory.
    """

    hours: float
    memory_MB: float  # noqa: N815
    descriptors: int
    threads: int
    disk_MB: float  # noqa: N815


def watched(name: str, directory: pathlib.Path, minutes: float, every: int) -> list[str]:
    """How many checkpoints a recipe wrote, and each number of the last sample with its growth.

    Raises:
      TrainingError: the training ended by itself.
    """
    command = [sys.executable, "-m", "experiments.train", f"--recipe={name}"]
    command += [f"--workdir={directory}", "--num_epochs=1000000", f"--checkpoint_every={every}"]
    samples = []
    started = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as training:
        try:
            for number in range(1, SAMPLES + 1):
                time.sleep(max(0.0, started + 60 * minutes * number / SAMPLES - time.monotonic()))
                if training.poll() is not None:
                    raise TrainingError(f"{name} ended by itself, with code {training.returncode}")
                hours = (time.monotonic() - started) / 3600
                samples.append(sample(training.pid, directory, hours))
        finally:
            training.send_signal(signal.SIGTERM)
    steps = [int(path.name) for path in (directory / "checkpoints").glob("*[0-9]")]
    return [f"{max(steps, default=0) // every:,}", *growth(samples)]


def sample(process: int, directory: pathlib.Path, hours: float) -> Sample:
    """What a process and its run directory occupy now."""
    lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    size = 0
    for path in directory.rglob("*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # A checkpoint that is no longer kept.
            continue
    return Sample(
        hours=hours,
        memory_MB=int(status["VmRSS"].split()[0]) / 1000,
        descriptors=len(list(pathlib.Path(f"/proc/{process}/fd").iterdir())),
        threads=int(status["Threads"]),
        disk_MB=size / 1e6,
    )


def growth(samples: Sequence[Sample]) -> list[str]:
    """The last value of each number, and its slope over the second half, an hour."""
    late = [dataclasses.astuple(one) for one in samples[len(samples) // 2 :]]
    hours, *columns = np.asarray(late, np.float64).T
    return [f"{column[-1]:.4g} ({np.polyfit(hours, column, 1)[0]:+.3g})" for column in columns]


if __name__ == "__main__":
    flags.run(main, define)
