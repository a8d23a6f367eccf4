"""A state of examples, of devices and of all: by hand, across a resume, on every device.

The learner here keeps one array of each kind. NumPy does the same for each device's share.
"""

import contextlib
import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore import data, parallel, tasks
from dlcore.errors import UsageError
from dlcore.metrics import Mean, Rows
from dlcore.tasks import Learner
from dlcore.train import Settings, evaluation
from dlcore.train.checkpoint import Checkpoints
from dlcore.train.preparation import prepare
from experiments import recipes
from tests import small

BATCH_SIZE, STEPS = 8, 4
BATCHES = np.random.default_rng(0).normal(size=(STEPS, BATCH_SIZE, 3)).astype(np.float32)


def batch_of(step):
    return {"image": BATCHES[step], "mask": np.ones(BATCH_SIZE, np.float32)}


@dataclasses.dataclass(frozen=True)
class Keeper(Learner):
    """Keeps the mean of all images so far, each example's sum, and each device's own images."""

    state_kinds: ClassVar = {"memory": "examples", "pool": "device"}

    def init(self, key, batch):
        return {
            "params": {"mean": jnp.zeros(3)},
            "memory": {"sum": jnp.zeros(batch["image"].shape)},
            "pool": {"kept": jnp.zeros(3), "draws": jnp.zeros((), jnp.int32)},
        }

    def update(self, state, batch, key, optimizer):
        images, pool = batch["image"], state.model_state["pool"]
        count = parallel.psum(jnp.float32(len(images)))
        mean = parallel.psum(images.sum(0)) / count
        after = {
            "memory": {"sum": state.model_state["memory"]["sum"] + images},
            "pool": {"kept": pool["kept"] / 2 + images.mean(0), "draws": pool["draws"] + 1},
        }
        params = {"mean": state.params["mean"] + mean}
        loss = Mean.of((images * pool["kept"]).sum(-1), batch["mask"])
        return state.replace(params=params, model_state=after), {"loss": loss}

    def evaluate(self, variables, batch, key):
        kept = jnp.broadcast_to(variables["pool"]["kept"], batch["image"].shape)
        values = {"kept": kept, "memory": variables["memory"]["sum"]}
        return {name: Rows(array, batch["mask"]) for name, array in values.items()}


@functools.cache
def program(layout, devices):
    return small.build(Keeper(None), batch_of(0), layout, devices=devices, log_every=3)


def by_hand(devices, steps):
    """The state after some steps."""
    kept = np.zeros((devices, 3))
    for images in np.float64(BATCHES[:steps]):
        kept = kept / 2 + images.reshape(devices, -1, 3).mean(1)
    return {
        "params": {"mean": np.float64(BATCHES[:steps]).mean(1).sum(0)},
        "memory": {"sum": np.float64(BATCHES[:steps]).sum(0)},
        "pool": {"kept": kept, "draws": np.full(devices, steps)},
    }


def trained(made, steps, state=None, first=0):
    """The placed state after those steps."""
    layout = made.parallelism
    state = layout.place_state(made.initialize()) if state is None else state
    for step in range(first, steps):
        state, _ = made.step(state, layout.place_batch(batch_of(step)))
    return state


@pytest.mark.parametrize(("layout", "devices"), [("jit", 1), ("pmap", 4), ("data", 4)])
def test_each_kind_of_state_is_kept_for_what_it_belongs_to_and_across_a_resume(
    layout, devices, tmp_path
):
    made = program(layout, devices)
    expected = trained(made, STEPS)
    canonical = made.parallelism.canonical_state(expected)
    jax.tree.map(
        lambda found, hand: np.testing.assert_allclose(found, hand, rtol=1e-5, atol=1e-6),
        {"params": canonical.params, **canonical.model_state},
        by_hand(devices, STEPS),
    )
    evaluated = evaluation.evaluate(made, expected, [batch_of(0)])
    kept = np.repeat(canonical.model_state["pool"]["kept"], BATCH_SIZE // devices, axis=0)
    np.testing.assert_array_equal(evaluated["kept"], kept)
    np.testing.assert_array_equal(evaluated["memory"], canonical.model_state["memory"]["sum"])

    half = made.parallelism.canonical_state(trained(made, 2))
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        checkpoints.save(2, half, {})
        checkpoints.wait()
        restored = checkpoints.restore(made.abstract_state, 2).state
    again = trained(made, STEPS, made.parallelism.place_state(restored), first=2)
    jax.tree.map(
        lambda one, two: np.testing.assert_array_equal(np.asarray(one), np.asarray(two)),
        made.parallelism.canonical_state(again),
        canonical,
    )


def test_a_state_of_four_devices_is_refused_to_two(tmp_path):
    four, two = program("data", 4), program("data", 2)
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        checkpoints.save(1, four.initialize(), {})
        checkpoints.wait()
        with pytest.raises(
            UsageError, match=r"or number of devices: model_state/pool/.*\[4\].*\[2\]"
        ):
            checkpoints.restore(two.abstract_state, 1)


# What is declared as replicated.


def assert_replicated(layout, state):
    """Every device holds the same bits of all that belongs to none of them alone."""
    compared = 0
    for path, array in jax.tree.leaves_with_path(state):
        if layout.kind(path) == "replicated":
            first, *others = (np.asarray(shard.data) for shard in array.addressable_shards)
            assert len(others) == layout.device_count - 1
            for other in others:
                assert other.tobytes() == first.tobytes(), jax.tree_util.keystr(path)
            compared += 1
    assert compared


@dataclasses.dataclass(frozen=True)
class Divided(Keeper):
    """Declares its pool as replicated, which it is not."""

    state_kinds: ClassVar = {"memory": "examples"}


@pytest.mark.parametrize("layout", ["pmap", "data"])
def test_what_only_claims_to_be_replicated_is_found_out(layout):
    made = small.build(Divided(None), batch_of(0), layout, devices=4, log_every=3)
    with pytest.raises(AssertionError, match="kept"):
        assert_replicated(made.parallelism, trained(made, 1))
    assert_replicated(program(layout, 4).parallelism, trained(program(layout, 4), 1))


# The smallest recipe of each task whose batch can be split.
SMALLEST = {
    "binary_classification": "face_or_not",
    "classification": "softmax_regression_iris",
    "evolution": "evolution_digits",
    "gan": "gan_digits",
    "language_model": "char_lstm_shakespeare",
    "multi_label": "segments_digits",
    "multitask": "multitask_digits",
    "regression": "least_squares_diabetes",
    "sequence_classification": "bag_of_words_polarity",
}
BUNDLED = [name for name in recipes.names() if recipes.get(name).data in data.names()]


def splits(name):
    return "data" in tasks.kind(recipes.get(name).task).parallelisms


def test_every_task_whose_batch_can_be_split_is_among_them():
    assert SMALLEST.keys() == {
        name for name in tasks.listed() if "data" in tasks.kind(name).parallelisms
    }
    assert all(recipes.get(name).task == task for task, name in SMALLEST.items())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if "softmax" not in name else [])
        for name in sorted(set(SMALLEST.values()) & set(BUNDLED))
    ],
)
def test_a_state_is_of_32_bits_wherever_64_are_the_default(name):
    with jax.enable_x64(True):
        prepared = prepare(recipes.get(name), Settings(), jax.devices()[:1])
        recipe, before = prepared.recipe, prepared.program.abstract_state
        batch = prepared.dataset.train_batches(recipe.batch_size, recipe.seed).batch(0)
        after, _ = jax.eval_shape(prepared.program.step, before, batch)
    for leaf in jax.tree.leaves((before, after.params, after.model_state, after.opt_state)):
        assert leaf.dtype.itemsize <= 4


@pytest.mark.parametrize("layout", ["pmap", "data"])
@pytest.mark.parametrize(
    "name",
    [
        *SMALLEST.values(),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in BUNDLED
            if name not in SMALLEST.values() and splits(name)
        ),
    ],
)
def test_after_a_step_of_a_recipe_all_devices_hold_the_same(name, layout, tmp_path):
    recipe = recipes.get(name)
    if name == "face_or_not":
        recipe = dataclasses.replace(
            recipe, data="breast_cancer", data_options={}, model="linear_units"
        )
    if recipe.task == "sequence_classification":
        for name, text in (("good", "a fine film"), ("bad", "a long and dull film")):
            (tmp_path / name).mkdir()
            for number in range(8):
                (tmp_path / name / f"{number}.txt").write_text(text + " indeed" * number)
        recipe = dataclasses.replace(recipe, data=str(tmp_path), batch_size=8)
    elif recipe.data not in data.names():
        (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
        recipe = dataclasses.replace(
            recipe, data=str(tmp_path), model_options={"hidden": 4, "layers": 1}, batch_size=8
        )
    if recipe.batch_size % 4 or not recipe.batch_size:
        recipe = dataclasses.replace(recipe, batch_size=8)
    prepared = prepare(recipe, Settings(parallelism=layout), jax.devices()[:4])
    made = prepared.program
    batch = prepared.dataset.train_batches(recipe.batch_size, recipe.seed).batch(0)
    state, report = made.step(
        made.parallelism.place_state(made.initialize()), made.parallelism.place_batch(batch)
    )
    assert made.parallelism.to_host(report).finite
    assert_replicated(made.parallelism, state)
