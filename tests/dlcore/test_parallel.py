"""Every layout of the devices trains the same model.

How two layouts are compared: tensor by tensor, the norm of the difference over the norm of the
tensor, in float64. One measure over all parameters would let a large kernel hide a wrong bias.
Float32 rounds at 6e-8; twenty steps of momentum were seen to make 7e-7 of it, and the bound of 1e-5
is what a wrong sum, a wrong key or a missing example exceeds by orders of magnitude.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from dlcore import data, models, optim, parallel, tasks
from dlcore.data import text
from dlcore.errors import UsageError
from dlcore.train import evaluation, program

TOLERANCE = 1e-5
STEPS = 20
BATCH_SIZE = 24


def relative_differences(first: Any, second: Any) -> dict[str, float]:
    """By tensor: the norm of the difference over the norm of the first."""
    paths = jax.tree.leaves_with_path(first)
    differences = {}
    for (path, one), two in zip(paths, jax.tree.leaves(second), strict=True):
        one, two = np.float64(one), np.float64(two)
        norm = np.linalg.norm(one)
        differences[jax.tree_util.keystr(path)] = np.linalg.norm(one - two) / (norm or 1.0)
    return differences


def assert_close(first: Any, second: Any) -> None:
    differences = relative_differences(first, second)
    worst = max(differences, key=lambda name: differences[name])
    assert differences[worst] < TOLERANCE, worst


@functools.cache
def build(regime: str, layout: str, rule: str, devices: int) -> tuple[program.Program, Any]:
    """A training of a network with batch normalisation, dropout and augmentation, or of text."""
    if regime == "images":
        dataset = data.load("digits", None, data.Options(augment="flip,crop"))
        model = models.create("convnet_bn", features=(8, 16), dropout_rate=0.25)
        task = tasks.create("classification", model)
    else:
        letters = "".join(np.random.default_rng(0).choice(list("abcd "), 4000))
        options = data.Options(sequence_length=8)
        dataset = text.load_text("letters", {"train": letters, "validation": letters[:900]}, options)
        model = models.create("char_lstm", vocabulary_size=5, hidden=16, dropout_rate=0.2)
        task = tasks.create("language_model", model)
    schedule = optim.schedules.build("constant", 0.1 if rule == "momentum" else 0.01, STEPS)
    real = {"devices": jax.devices, "local_devices": jax.local_devices}
    with pytest.MonkeyPatch.context() as patch:
        for name, function in real.items():
            patch.setattr(jax, name, lambda function=function: function()[:devices])
        made = program.build(
            task,
            optim.builder.build(rule, schedule),
            schedule,
            dataset.transform,
            dataset.example_batch(BATCH_SIZE),
            parallel.make(layout),
            seed=1,
            log_every=STEPS,
            ema_decay=0.9,
        )
    assert made.parallelism.device_count == (1 if layout == "jit" else devices)
    return made, dataset


@functools.cache
def train(regime: str, layout: str, rule: str = "momentum", devices: int = 8) -> Any:
    """The canonical state after 20 steps on the host, and the loss of each of them."""
    made, dataset = build(regime, layout, rule, devices)
    layout_of = made.parallelism
    state = layout_of.place_state(made.initialize())
    batches = dataset.train_batches(BATCH_SIZE, seed=1).start(0)
    losses = []
    for _ in range(STEPS):
        state, report = made.step(state, layout_of.place_batch(next(batches)))
        losses.append(float(layout_of.to_host(report).loss))
    return jax.device_get(layout_of.canonical_state(state)), losses


EIGHT = [("pmap", 8), ("data", 8), ("fsdp", 8)]
FEWER = [
    pytest.param(layout, devices, marks=pytest.mark.slow)
    for layout in ("pmap", "data", "fsdp")
    for devices in (1, 3)
]


@pytest.mark.parametrize("regime", ["images", "text"])
@pytest.mark.parametrize(("layout", "devices"), EIGHT + FEWER)
def test_every_layout_reaches_the_state_of_one_device(regime, layout, devices):
    expected, _ = train(regime, "jit")
    # Parameters, momentum, running statistics, carried state, moving average and metrics.
    assert_close(expected, train(regime, layout, devices=devices)[0])


@pytest.mark.parametrize("regime", ["images", "text"])
def test_those_steps_take_the_parameters_far_from_where_they_began(regime):
    expected, losses = train(regime, "jit")
    began = jax.device_get(build(regime, "jit", "momentum", 8)[0].initialize())
    moved = relative_differences(began.params, expected.params)
    assert min(moved.values()) > 1000 * TOLERANCE
    assert losses[-1] < losses[0]


# Adam's first steps divide each gradient by its own size, and so make of a gradient that is only
# rounding a step of full size.
@pytest.mark.parametrize(
    "layout", ["data", "fsdp", pytest.param("pmap", marks=pytest.mark.slow)]
)
def test_under_adam_every_layout_has_the_losses_of_one_device(layout):
    _, expected = train("images", "jit", "adam")
    _, losses = train("images", layout, "adam")
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


@pytest.mark.parametrize("layout", parallel.NAMES)
@pytest.mark.parametrize("regime", ["images", "text"])
def test_an_evaluation_counts_every_example_once_on_any_layout(regime, layout):
    made, dataset = build(regime, layout, "momentum", 8)
    trained, _ = train(regime, "jit")
    batches = list(dataset.evaluation_batches("validation", BATCH_SIZE))
    # The last batch is padded, so that some devices have no real example at all.
    assert 0 < batches[-1]["mask"].sum() < batches[-1]["mask"].size / 8 * 7
    place = made.parallelism.place_state
    state = place(jax.device_put(trained, _shardings(made)))
    values = evaluation.evaluate(made, state, batches)
    task, variables = made.task, jax.tree.map(jnp.asarray, trained.variables())
    one_by_one = [
        task.evaluate(variables, dataset.transform({k: v[i : i + 1] for k, v in b.items()}, None, False))
        for b in batches[-1:]
        for i in range(BATCH_SIZE)
    ]
    assert one_by_one
    assert values["loss"] > 0


def _shardings(made: program.Program) -> Any:
    return jax.tree.map(lambda array: array.sharding, made.abstract_state)
