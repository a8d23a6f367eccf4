"""What listens to a training decides by the records, and decides the same after a resume."""

import json
import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcore.train.callbacks import EarlyStopping, LossTarget, Profiler, ProgressBar

SCORES = st.lists(st.sampled_from([0.1, 0.2, 0.3, math.nan, math.inf]), max_size=12)


def validation(**values):
    return {"step": 1, "epoch": 1.0, "split": "validation", **values}


def stops_after(listener, scores):
    """After how many of the scores the listener asks for the end, if it does."""
    for count, score in enumerate(scores, start=1):
        listener.on_record(validation(accuracy=score))
        if listener.stop_reason():
            return count
    return None


def resumed(listener, other):
    """The other one with what the first remembers, by way of a file."""
    other.load(json.loads(json.dumps(listener.state())))
    return other


@given(scores=SCORES, patience=st.integers(1, 4), mode=st.sampled_from(["max", "min"]))
def test_early_stopping_waits_for_a_strictly_better_value(scores, patience, mode):
    better = max if mode == "max" else min
    expected, best, waited = None, None, 0
    for count, score in enumerate(scores, start=1):
        improves = math.isfinite(score) and (best is None or better(score, best) != best)
        best, waited = (score, 0) if improves else (best, waited + 1)
        if waited == patience:
            expected = count
            break
    assert stops_after(EarlyStopping("accuracy", mode, patience), scores) == expected


@given(scores=SCORES, interruption=st.integers(0, 12), patience=st.integers(1, 4))
def test_early_stopping_decides_the_same_after_a_resume(scores, interruption, patience):
    first, second = scores[:interruption], scores[interruption:]
    listener = EarlyStopping("accuracy", "max", patience)
    before = stops_after(listener, first)
    if before is None:
        listener = resumed(listener, EarlyStopping("accuracy", "max", patience))
        rest = stops_after(listener, second)
        before = None if rest is None else interruption + rest
    assert before == stops_after(EarlyStopping("accuracy", "max", patience), scores)


def test_early_stopping_listens_to_the_validation_only():
    listener = EarlyStopping("accuracy", "max", patience=1)
    for _ in range(3):
        listener.on_record({"step": 1, "split": "train", "accuracy": 0.5})
    assert listener.stop_reason() is None


@pytest.mark.parametrize(
    ("loss", "reached"), [(0.02, False), (0.01, True), (0.0, True), (math.nan, False)]
)
def test_the_loss_target_is_reached_by_the_evaluated_loss(loss, reached):
    listener = LossTarget(0.01)
    assert listener.stop_reason() is None
    listener.on_record({"step": 1, "split": "train", "loss": 0.0})
    assert listener.stop_reason() is None
    listener.on_record(validation(loss=loss))
    assert (listener.stop_reason() is not None) is reached
    again = resumed(listener, LossTarget(0.01))
    assert again.stop_reason() == listener.stop_reason()


def test_the_progress_bar_tells_the_step_and_the_latest_numbers(capsys):
    bar = ProgressBar()
    bar.on_start(5, 8)
    bar.on_record({"step": 6, "split": "train", "loss": 0.123456, "learning_rate": 0.1})
    bar.on_record(validation(accuracy=0.75, loss=math.nan))
    for step in (6, 7, 8):
        bar.on_step(step)
    bar.on_end()
    last = capsys.readouterr().err.splitlines()[-1]
    assert "8/8" in last
    assert "loss=0.1235" in last
    assert "val_accuracy=0.75" in last
    assert "learning_rate" not in last


@pytest.mark.parametrize("num_steps", [4, 30])
def test_the_profiler_leaves_one_trace_even_of_a_short_training(tmp_path, num_steps):
    profiler = Profiler(tmp_path / "profile")
    profiler.on_start(0, num_steps)
    for step in range(1, num_steps + 1):
        jnp.ones(3).sum().block_until_ready()
        profiler.on_step(step)
    profiler.on_end()
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    # It is over: another one may begin.
    jax.profiler.start_trace(tmp_path / "other")
    jax.profiler.stop_trace()
