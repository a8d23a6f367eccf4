"""Small things to train: datasets of a few examples, and programs without a recipe around them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import data, optim, parallel
from dlcore.data import text
from dlcore.data.features import ClassLabel, Image
from dlcore.tasks import Learner, TrainState
from dlcore.train import Recipe, program


def images(count: int = 88, shape: tuple[int, ...] = (4, 4, 1), **options: Any) -> data.Dataset:
    """Pictures, brighter from class to class; three fifths are to learn from."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=count).astype(np.int32)
    pixels = rng.normal(labels[:, None, None, None] / 2, 1, (count, *shape)).astype(np.float32)
    features = {"image": Image(shape), "label": ClassLabel(("a", "b", "c"))}
    arrays = {"train": {"image": pixels, "label": labels}}
    options = {"validation_fraction": 0.2, "test_fraction": 0.2, **options}
    return data.from_arrays(features, arrays, options, "blobs")


def _blobs(name: str, options: data.ExampleOptions) -> data.Dataset:
    return dataclasses.replace(images(**dataclasses.asdict(options)), name=name)


data.register("small_blobs", _blobs)


def recipe(**changes: Any) -> Recipe:
    """A training of twelve steps, in two epochs, that nothing is drawn of."""
    fields: dict[str, Any] = {
        "name": "small",
        "imports": (__name__,),
        "model": "mlp",
        "model_options": {"hidden": (4,)},
        "data": "small_blobs",
        "data_options": {"validation_fraction": 0.3},
        "learning_rate": 0.1,
        "batch_size": 8,
        "num_epochs": 2,
        "log_every": 4,
        "evaluators": NO_FIGURES,
    }
    return Recipe(**fields | changes)


# Drawing takes longer than such a training.
NO_FIGURES = "-learning_curves -filters -predictions"


def letters(words: int = 250, **options: Any) -> data.Dataset:
    """A text of three words over five characters."""
    written = "".join(np.random.default_rng(0).choice(["ab ", "cd", "dab"], words))
    splits = {"train": written, "validation": written[: len(written) // 5]}
    return text.load_text("letters", splits, data.TextOptions(**{"sequence_length": 8, **options}))


def state(params: Any, opt_state: Any, model_state: Any = None) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.int32(0),
        params=params,
        model_state=model_state or {},
        opt_state=opt_state,
        rng=jax.random.key_data(jax.random.key(0)),
        average=None,
        metrics={},
    )


@functools.partial(jax.jit, static_argnums=0)
def init(learner: Learner, batch: Any, seed: int = 0) -> Any:
    """First variables of a learner."""
    return learner.init(jax.random.key(seed), batch)


def build(
    learner: Learner,
    batch: Any,
    layout: str = "jit",
    *,
    rule: str = "sgd",
    schedule: Any = 0.1,
    devices: int | None = None,
    **options: Any,
) -> program.Program:
    """The program of a learner.

    Args:
      learner: what is trained.
      batch: a global one, whose examples need no preparation unless `transform` is given.
      layout: the parallelism.
      rule: the optimizer.
      schedule: of the learning rate, or a constant one.
      devices: how many there are; all by default.
      options: of `dlcore.train.program.build`.
    """
    if not callable(schedule):
        schedule = optim.schedules.build("constant", schedule, 100)
    return program.build(
        learner,
        optim.builder.build(rule, schedule),
        schedule,
        options.pop("transform", lambda batch, key, train: batch),
        batch,
        parallel.make(layout, devices=jax.devices()[:devices], kinds=learner.state_kinds),
        **{"seed": 0, "log_every": 100, **options},
    )
