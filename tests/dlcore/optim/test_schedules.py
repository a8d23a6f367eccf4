"""Schedules against their closed forms."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore.errors import UsageError
from dlcore.optim import schedules

RATE, TOTAL, PERIOD, FACTOR = 0.3, 40, 7, 0.5

CLOSED_FORMS = {
    "constant": lambda t, steps: RATE,
    "plateau": lambda t, steps: RATE,
    "time": lambda t, steps: RATE / (1 + t / PERIOD),
    "robbins_monro": lambda t, steps: RATE / (t + 1),
    "milestones": lambda t, steps: (
        RATE * FACTOR ** ((t >= round(steps / 4)) + (t >= round(steps * 0.9)))
    ),
    "linear": lambda t, steps: RATE * (1 - t / steps),
    "cosine": lambda t, steps: RATE * (1 + math.cos(math.pi * t / steps)) / 2,
    "step": lambda t, steps: RATE * FACTOR ** (t // PERIOD),
    "exponential": lambda t, steps: RATE * FACTOR ** (t / PERIOD),
}


def build(name, **options):
    options = {"decay_steps": PERIOD, "milestones": (0.25, 0.9), **options}
    options = {"warmup_steps": 0, "decay_factor": FACTOR, **options}
    return schedules.build(name, RATE, TOTAL, **options)


def test_every_schedule_has_a_closed_form_here():
    assert set(CLOSED_FORMS) == set(schedules.NAMES)


@pytest.mark.parametrize("warmup", [0, 1, 10])
@pytest.mark.parametrize("name", schedules.NAMES)
def test_a_schedule_warms_up_linearly_and_then_follows_its_closed_form(name, warmup):
    with jax.enable_x64(True):
        rate = jax.vmap(build(name, warmup_steps=warmup))(np.arange(TOTAL))
    rising = [RATE * t / warmup for t in range(warmup)]
    falling = [CLOSED_FORMS[name](t, TOTAL - warmup) for t in range(TOTAL - warmup)]
    np.testing.assert_allclose(rate, rising + falling, rtol=1e-12)


def test_the_decays_of_the_lecture_are_these_with_its_kappa():
    epoch, kappa = 5, 0.2
    epochs = np.arange(TOTAL) / epoch
    lecture = {
        "time": (1 / (1 + kappa * epochs), {"decay_steps": round(epoch / kappa)}),
        "step": (kappa ** np.floor(epochs), {"decay_steps": epoch, "decay_factor": kappa}),
        "exponential": (
            np.exp(-kappa * epochs),
            {"decay_steps": epoch, "decay_factor": math.exp(-kappa)},
        ),
    }
    for name, (decay, options) in lecture.items():
        np.testing.assert_allclose(
            build(name, **options)(np.arange(TOTAL)), RATE * decay, rtol=1e-5
        )


def test_a_rate_may_be_asked_for_by_a_plain_integer_during_the_warm_up_too():
    for name in schedules.NAMES:
        schedule = build(name, warmup_steps=3, decay_steps=1)
        assert [float(schedule(step)) for step in (0, 3)] == pytest.approx([0, RATE])


def test_the_cosine_ends_at_zero():
    assert build("cosine", warmup_steps=5)(TOTAL) == pytest.approx(0.0, abs=1e-8)


def test_the_only_step_behind_a_warm_up_has_the_whole_rate():
    for name in schedules.NAMES:
        schedule = build(name, warmup_steps=TOTAL - 1, decay_steps=1)
        assert float(schedule(TOTAL - 1)) == pytest.approx(RATE), name


@settings(deadline=None, max_examples=15)
@given(
    name=st.sampled_from(schedules.NAMES),
    warmup=st.integers(0, TOTAL - 1),
    period=st.integers(1, TOTAL),
    factor=st.floats(0.01, 1.0),
)
def test_no_schedule_exceeds_its_rate_or_rises_after_the_warm_up(name, warmup, period, factor):
    schedule = build(name, warmup_steps=warmup, decay_steps=period, decay_factor=factor)
    rate = np.asarray(jax.vmap(schedule)(np.arange(TOTAL)), np.float64)
    assert rate.max() == pytest.approx(RATE)
    assert (np.diff(rate[warmup:]) <= 1e-7).all()
    assert (np.diff(rate[: warmup + 1]) > 0).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "straight"}, "schedule=straight: .*constant, time, step, .*cosine"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"learning_rate": math.inf}, "learning_rate=inf"),
        ({"total_steps": 0}, "warmup_steps=0.* 0 steps"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"warmup_steps": 10}, "warmup_steps=10.*less than the 10 steps"),
        ({"name": "step"}, "decay_steps=0: schedule=step needs at least 1"),
        ({"name": "time"}, "decay_steps=0: schedule=time"),
        ({"name": "exponential", "decay_steps": -1}, "decay_steps=-1"),
        ({"name": "milestones", "milestones": (0.5, 1.0)}, "milestones=0.5,1.0: .*below 1"),
        ({"name": "milestones", "milestones": (0.5, 0.25)}, "milestones=0.5,0.25: .*ascending"),
        ({"decay_factor": 0.0}, "decay_factor=0.0.*above 0"),
        ({"decay_factor": 1.1}, "decay_factor=1.1.*at most 1"),
    ],
)
def test_bad_input_is_refused_by_name(change, named):
    arguments = {"name": "constant", "learning_rate": 0.1, "total_steps": 10, **change}
    with pytest.raises(UsageError, match=named):
        schedules.build(**arguments)


def test_the_rate_drops_at_every_multiple_of_any_period_when_compiled_too():
    periods = np.arange(1, 407)
    # 41 is one of those whose reciprocal in float32, times the period, is less than 1.
    for period in (41, 47, 55, 61, *periods[periods % 97 == 0]):
        schedule = build("step", decay_steps=int(period))
        steps = np.arange(0, 4 * period + 1)
        expected = RATE * FACTOR ** (steps // period)
        np.testing.assert_allclose(jax.jit(schedule)(steps), expected, rtol=1e-6)
        assert float(jax.jit(schedule)(int(period))) == pytest.approx(RATE * FACTOR)
