"""Small trainings of each regime, compiled once for all tests of a session."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from dlcore import data, models, optim, parallel, tasks
from dlcore.train import program
from dlcore.train.callbacks import Callback
from dlcore.train.loop import Loop, Outcome, Plan
from tests import small

SEED = 3
NUM_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Training:
    """A training that can be run again and again.

    Attributes:
      program: compiled once.
      dataset: small.
      plan: 20 steps.
    """

    program: program.Program
    dataset: data.Dataset
    plan: Plan

    def loop(self, workdir: pathlib.Path, *callbacks: Callback, **changes: Any) -> Loop:
        """A loop over it in a run directory.

        `changes` are fields of the plan, `dataset`, or arguments of the loop.
        """
        dataset = changes.pop("dataset", self.dataset)
        fields = {field.name for field in dataclasses.fields(Plan)}
        plan = {name: changes.pop(name) for name in fields & changes.keys()}
        plan = dataclasses.replace(self.plan, **plan)
        workdir.mkdir(exist_ok=True)
        return Loop(self.program, dataset, plan, workdir, seed=SEED, callbacks=callbacks, **changes)

    def run(self, workdir: pathlib.Path, *callbacks: Callback, **changes: Any) -> Outcome:
        """What came of such a loop."""
        return self.loop(workdir, *callbacks, **changes).run()


def _regime(name: str) -> tuple[tasks.Learner, data.Dataset]:
    if name == "classification":
        model = models.create("mlp", num_classes=3, hidden=(8,), dropout_rate=0.3)
        return tasks.create(name, model), small.images(augment="flip")
    if name == "perceptron":
        return tasks.create(name, models.create(name, num_classes=3)), small.images()
    if name == "language_model":
        model = models.create("char_lstm", vocabulary_size=5, hidden=6, layers=1, dropout_rate=0.2)
        return tasks.create(name, model), small.letters()
    sizes = {"latent_size": 3, "generator_hidden": (5,), "discriminator_hidden": (4,)}
    return tasks.create(name, models.create(name, image_size=4, **sizes)), small.images()


@pytest.fixture(scope="session")
def training() -> Callable[..., Training]:
    """`training(regime, parallelism)`: 20 steps of a task, in epochs of 7, with all that moves.

    Records come every 3 steps, evaluations every 7, checkpoints also every 4.
    """

    @functools.cache
    def build(regime: str = "classification", parallelism: str = "jit") -> Training:
        task, dataset = _regime(regime)
        schedule = optim.schedules.build("cosine", 0.05, NUM_STEPS, warmup_steps=2)
        options = optim.builder.Options(clip_average_factor=1.0, gradient_noise=0.1)
        rule = "sgd" if regime == "perceptron" else "adam"
        # Whatever is kept from step to step has to be resumed as well.
        plain = regime in ("classification", "language_model")
        prepared = program.build(
            task,
            optim.builder.build(rule, schedule, options, SEED),
            schedule,
            dataset.transform,
            dataset.example_batch(8),
            parallel.make(parallelism, kinds=task.state_kinds),
            seed=SEED,
            log_every=3,
            accumulate=2 if plain and parallelism == "jit" else 1,
            ema_decay=0.9,
        )
        plan = Plan(
            num_steps=NUM_STEPS,
            steps_per_epoch=dataset.train_batches(8, SEED).steps_per_epoch,
            log_every=3,
            evaluate_every=7,
            checkpoint_every=4,
            watched_metric=task.watched_metric,
            watched_mode=task.watched_mode,
        )
        return Training(prepared, dataset, plan)

    return build


class Poisoned:
    """A dataset whose training batches at some steps (from 1) hold NaN."""

    def __init__(self, dataset: data.Dataset, steps: range | set[int]) -> None:
        self._dataset, self._steps = dataset, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def train_batches(self, *args: Any) -> "Poisoned":
        return Poisoned(self._dataset.train_batches(*args), self._steps)

    def start(self, first: int) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(self._dataset.start(first), start=first + 1):
            poison = np.nan if step in self._steps else 0
            yield batch | {"image": batch["image"] + np.float32(poison)}


@pytest.fixture(scope="session")
def poisoned() -> Callable[..., Poisoned]:
    """`poisoned(dataset, steps)` has NaN in the batches of those steps."""
    return Poisoned


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[..., None]:
    """`assert_same_run(workdir, outcome, other_workdir, other_outcome)`: equal to the last bit."""

    def check(
        workdir: pathlib.Path, outcome: Outcome, other: pathlib.Path, expected: Outcome
    ) -> None:
        lines = (workdir / "metrics.jsonl").read_bytes()
        assert lines == (other / "metrics.jsonl").read_bytes()
        for name in ("status", "reason", "step", "best", "skipped"):
            assert getattr(outcome, name) == getattr(expected, name)
        assert jax.tree.structure(outcome.state) == jax.tree.structure(expected.state)
        arrays = jax.tree.leaves_with_path(jax.device_get(outcome.state))
        for (path, one), two in zip(arrays, jax.tree.leaves(expected.state), strict=True):
            assert one.tobytes() == np.asarray(two).tobytes(), jax.tree_util.keystr(path)

    return check
