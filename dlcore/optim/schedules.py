"""Learning-rate schedules: the rate as a function of the optimizer's step."""

import math

import optax

from dlcore.errors import UsageError

NAMES = ("constant", "cosine", "step", "exponential")


def build(
    name: str,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    *,
    decay_steps: int | None = None,
    decay_factor: float = 0.1,
) -> optax.Schedule:
    """The schedule of that name, after a linear warm-up.

    With `t` steps since the warm-up and `T = total_steps - warmup_steps`:

    - "constant": `learning_rate`;
    - "cosine": `learning_rate * (1 + cos(pi * t / T)) / 2`, down to zero (Loshchilov and Hutter,
      2017, equation 5, one period);
    - "step": `learning_rate * decay_factor ** floor(t / decay_steps)`;
    - "exponential": `learning_rate * decay_factor ** (t / decay_steps)`.

    The warm-up rises from zero by equal steps and reaches `learning_rate` at step `warmup_steps`
    (Goyal et al., 2017, section 2.2).

    Args:
      name: one of `NAMES`.
      learning_rate: the highest rate, above 0.
      total_steps: length of the training, warm-up included.
      warmup_steps: length of the warm-up, 0 for none.
      decay_steps: the period of "step" and "exponential", which need it.
      decay_factor: what a period multiplies the rate by, above 0 and at most 1.

    Returns:
      A function of the step (an int or an int array) that gives the rate.

    Raises:
      UsageError: an unknown name, or a number that is out of its range.
    """
    if name not in NAMES:
        raise UsageError(f"unknown schedule {name!r}: it is one of {', '.join(NAMES)}")
    if not 0 < learning_rate < math.inf:
        raise UsageError(f"learning_rate is {learning_rate}: it must be a number above 0")
    if not 0 <= warmup_steps < total_steps:
        raise UsageError(
            f"warmup_steps is {warmup_steps}: it must be at least 0 and less than the "
            f"{total_steps} steps of the training"
        )
    decay = _decay(name, learning_rate, total_steps - warmup_steps, decay_steps, decay_factor)
    if not warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def _decay(
    name: str, learning_rate: float, steps: int, period: int | None, factor: float
) -> optax.Schedule:
    if name == "constant":
        return optax.constant_schedule(learning_rate)
    if name == "cosine":
        return optax.cosine_decay_schedule(learning_rate, steps)
    if period is None or period < 1:
        raise UsageError(f"decay_steps is {period}: the schedule {name!r} needs at least 1")
    if not 0 < factor <= 1:
        raise UsageError(f"decay_factor is {factor}: it must be above 0 and at most 1")
    return optax.exponential_decay(learning_rate, period, factor, staircase=name == "step")
