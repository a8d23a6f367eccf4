"""What listens to a training decides by the records, and decides the same after a resume."""

import json
import math
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcore.train.callbacks import EarlyStopping, LossTarget, Plateau, Profiler, ProgressBar

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


def test_evaluations_up_to_the_first_step_that_counts_are_passed_over():
    listener = EarlyStopping("accuracy", "max", patience=2, first_step=3)
    for step, accuracy in enumerate([0.9, 0.8, 0.8, 0.5, 0.4], start=1):
        listener.on_record(validation(accuracy=accuracy) | {"step": step})
        assert listener.stop_reason() is None
    listener.on_record(validation(accuracy=0.5) | {"step": 6})
    assert listener.stop_reason() == "no better validation accuracy in 2 evaluations"


def falling(patience, mode="max"):
    return Plateau(0.1, metric="accuracy", mode=mode, patience=patience)


def multipliers(listener, scores):
    """What the rate is multiplied by after each of the scores."""
    for score in scores:
        listener.on_record(validation(accuracy=score))
        yield listener.rate_multiplier()


@given(scores=SCORES, patience=st.integers(1, 4), mode=st.sampled_from(["max", "min"]))
def test_the_rate_falls_after_so_many_evaluations_without_a_new_best(scores, patience, mode):
    finite = [math.isfinite(score) for score in scores]
    better = max if mode == "max" else min
    expected, since = [], 0
    for count, score in enumerate(scores):
        earlier = [one for one, counts in zip(scores[:count], finite, strict=False) if counts]
        improves = finite[count] and (not earlier or better([*earlier, score]) not in earlier)
        since = 0 if improves else since + 1
        expected.append(0.1 if since == patience else 1.0)
        since %= patience
    assert list(multipliers(falling(patience, mode), scores)) == expected


@given(scores=SCORES, interruption=st.integers(0, 12), patience=st.integers(1, 4))
def test_the_rate_falls_at_the_same_evaluations_after_a_resume(scores, interruption, patience):
    listener = falling(patience)
    before = list(multipliers(listener, scores[:interruption]))
    after = list(multipliers(resumed(listener, falling(patience)), scores[interruption:]))
    assert before + after == list(multipliers(falling(patience), scores))


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


class Hung:
    """A terminal that was closed after some writes."""

    def __init__(self, writes):
        self._left, self.refused = writes, 0

    def isatty(self):
        return True

    def write(self, text):
        self._left -= 1
        if self._left < 0:
            self.refused += 1
            raise BrokenPipeError

    def flush(self):
        self.write("")


@pytest.mark.parametrize("writes", [0, 1, 4, None])
def test_a_progress_bar_that_nobody_can_see_ends_no_training(monkeypatch, writes):
    terminal = writes if writes is None else Hung(writes)
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = ProgressBar()
    bar.on_start(0, 3)
    for step in (1, 2, 3):
        bar.on_record(validation(loss=0.5))
        time.sleep(0.21)
        bar.on_step(step)
    bar.on_end()
    # It does not try again and again.
    assert terminal is None or terminal.refused == 1


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_an_evaluation_with_a_number_that_is_not_finite_is_no_better(number):
    listener = EarlyStopping("accuracy", "max", patience=1)
    listener.on_record(validation(accuracy=0.5, loss=0.1))
    assert listener.stop_reason() is None
    listener.on_record(validation(accuracy=0.9, loss=number))
    assert listener.stop_reason() == "no better validation accuracy in 1 evaluations"


@pytest.mark.parametrize("num_steps", [4, pytest.param(30, marks=pytest.mark.slow)])
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
