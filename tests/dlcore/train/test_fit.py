"""What no memory could hold is refused before any of it is made."""

import dataclasses
import types

import jax
import pytest

from dlcore import memory
from dlcore.errors import UsageError
from dlcore.train import Phase, Recipe, Session, Settings, fit
from dlcore.train.preparation import prepare

MLP = Recipe(
    name="mlp",
    model="mlp",
    model_options={"hidden": (10,)},
    data="digits",
    learning_rate=0.1,
    batch_size=64,
    optimizer="adam",
    ema_decay=0.9,
)
# 64 inputs, 10 hidden units, 10 classes.
PARAMETERS = 4 * (64 * 10 + 10 + 10 * 10 + 10)
BATCH = 64 * 4 * (64 + 1 + 1)


def sized(**fields):
    return dataclasses.replace(MLP, **fields)


@pytest.fixture
def room(monkeypatch):
    """Gives the host so many bytes."""
    return lambda count: monkeypatch.setattr(memory, "of_host", lambda: count)


def test_parameters_moments_averages_and_a_batch_are_counted():
    parts = fit.parts(prepare(MLP))
    assert parts["the parameters"] == PARAMETERS
    # Adam has two moments and counters.
    assert 2 * PARAMETERS <= parts["the optimizer"] < 2 * PARAMETERS + 100
    assert parts["averages and other state"] == PARAMETERS
    assert parts["a prepared batch"] == BATCH


def test_what_fits_to_the_byte_is_taken_and_one_byte_less_is_not(room):
    prepared = prepare(MLP)
    needed = sum(fit.parts(prepared).values())
    room(needed)
    fit.check(prepared)
    room(needed - 1)
    with pytest.raises(UsageError, match="^a training of model=mlp needs"):
        fit.check(prepared)


@pytest.mark.parametrize("parallelism", ["jit", "pmap", "data", "fsdp"])
def test_an_accelerator_holds_its_own_share(monkeypatch, parallelism):
    prepared = prepare(MLP, Settings(parallelism=parallelism))
    parts, count = fit.parts(prepared), 1 if parallelism == "jit" else jax.device_count()
    state = sum(parts.values()) - parts["a prepared batch"]
    least = (state // count if parallelism == "fsdp" else state) + BATCH // count

    class Accelerator:
        platform = "tpu"

        def memory_stats(self):
            return {"bytes_limit": self.limit}

    device = Accelerator()
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    device.limit = least
    fit.check(prepared)
    # Each of four parts is rounded down.
    device.limit = least - 5
    with pytest.raises(UsageError, match="tpu has 0.0 GB"):
        fit.check(prepared)


def test_of_unequal_accelerators_the_largest_counts_and_one_that_does_not_tell_is_no_limit(
    monkeypatch,
):
    prepared = prepare(MLP)

    def devices(*limits):
        made = [
            types.SimpleNamespace(platform="gpu", memory_stats=lambda limit=limit: limit)
            for limit in limits
        ]
        monkeypatch.setattr(jax, "local_devices", lambda: made)

    # A card for the screen comes first.
    devices({"bytes_limit": 10}, {"bytes_limit": 10**9})
    fit.check(prepared)
    devices(None)
    monkeypatch.setattr(memory, "of_host", lambda: 10)
    fit.check(prepared)
    devices({"bytes_limit": 10}, {"bytes_limit": 20})
    with pytest.raises(UsageError, match="gpu has"):
        fit.check(prepared)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"model_options": {"hidden": (10**9,)}},
            r"needs 1,200.0 GB of memory at least, and cpu has 8.0 GB \(300.0 GB for the "
            r"parameters, 600.0 GB for the optimizer, 300.0 GB for .*: lower batch_size=64",
        ),
        # More numbers than 64 bits count.
        ({"model_options": {"hidden": (2**31 - 1,) * 3}}, "GB for the parameters"),
        (
            {"data_options": {"pad": 100_000}},
            r"GB for a prepared batch\): lower batch_size=64, or choose a smaller",
        ),
        ({"data_options": {"resize": 100_000}}, r"'digits': 1797 .* \(100000, 100000, 1\)"),
        ({"data_options": {"resize": 2**31 - 1}}, "dataset 'digits': 1797 of its examples"),
        (
            {"data": "synthetic", "data_options": {"image_size": 10**6}},
            r"dataset 'synthetic': 1 of its examples.*\(1000000, 1000000, 3\): lower batch_size or",
        ),
        (
            {"data": "synthetic", "data_options": {"image_size": 1000}, "batch_size": 9000},
            "dataset 'synthetic': 9000 of its examples",
        ),
        # A table of the host's that a model makes itself.
        (
            {"model_options": {"hidden": (2**31 - 1,), "window": (2, 2)}},
            "window=2,2 takes a table of .* GB",
        ),
    ],
)
def test_no_size_is_tried_that_cannot_be_had(tmp_path, monkeypatch, fields, told):
    def initialize(*arguments):
        raise AssertionError("work has begun")

    monkeypatch.setattr(memory, "of_host", lambda: 8 * 10**9)
    monkeypatch.setattr("dlcore.train.program.Program.initialize", initialize)
    with pytest.raises(UsageError, match=told):
        Session(sized(**fields)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_phase_that_does_not_fit_is_named(room):
    room(10**6)
    recipe = sized(
        phases=(Phase("small", {}), Phase("large", {"model_options": {"hidden": (10**6,)}}))
    )
    with pytest.raises(UsageError, match="^phase.large: a training of model=mlp needs"):
        Session(recipe).check()
