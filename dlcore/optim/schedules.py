"""Learning-rate schedules: the rate as a function of the optimizer's step.

With `t` steps since the warm-up and `T = total_steps - warmup_steps`:

- "constant": `learning_rate`;
- "time": `learning_rate / (1 + t / decay_steps)`, search then converge (Darken and Moody, 1990);
- "step": `learning_rate * decay_factor ** floor(t / decay_steps)`;
- "exponential": `learning_rate * decay_factor ** (t / decay_steps)`;
- "milestones": `learning_rate * decay_factor ** n`, n being how many of the milestones, which are
  shares of T, t has reached (He et al., 2016, section 4.2: a half and three quarters);
- "linear": `learning_rate * (1 - t / T)`, down to zero;
- "robbins_monro": `learning_rate / r` at the r-th step, `r = 1 + t` (deck L): rates whose sum
  diverges and whose sum of squares does not (Robbins and Monro, 1951);
- "cosine": `learning_rate * (1 + cos(pi * t / T)) / 2`, down to zero (Loshchilov and Hutter,
  2017, equation 5, one period);
- "plateau": `learning_rate`, which the training lowers when it stalls (`dlcore.optim.rate`).

Deck D prints "time", "step" and "exponential" with t in epochs. With E steps in an epoch, its kappa
is `E / decay_steps` for "time", `decay_factor` (at `decay_steps = E`) for "step", and
`-log(decay_factor) E / decay_steps` for "exponential".

The warm-up rises from zero by equal steps and reaches `learning_rate` at step `warmup_steps`
(Goyal et al., 2017, section 2.2).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from dlcore.errors import UsageError

NAMES = (
    "constant",
    "time",
    "step",
    "exponential",
    "milestones",
    "linear",
    "robbins_monro",
    "cosine",
    "plateau",
)
_PERIODIC = ("time", "step", "exponential")


def build(
    name: str,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    *,
    decay_steps: int = 0,
    decay_factor: float = 0.1,
    milestones: Sequence[float] = (0.5, 0.75),
) -> optax.Schedule:
    """The schedule of that name, after a linear warm-up.

    Args:
      name: one of `NAMES`.
      learning_rate: the highest rate, above 0.
      total_steps: length of the training, warm-up included.
      warmup_steps: length of the warm-up, 0 for none.
      decay_steps: period of "time", "step" and "exponential", which need it.
      decay_factor: factor of the rate after each period of "step" and "exponential" and at each of
        the milestones, above 0 and at most 1.
      milestones: of "milestones", shares of the training after its warm-up, ascending in (0, 1).

    Returns:
      A function of the step (an int or an int array) that gives the rate.

    Raises:
      UsageError: an unknown name, or a number that is out of its range.
    """
    if name not in NAMES:
        raise UsageError(f"schedule={name}: it is one of {', '.join(NAMES)}")
    if not 0 < learning_rate < math.inf:
        raise UsageError(f"learning_rate={learning_rate}: it must be a number above 0")
    if not 0 <= warmup_steps < total_steps:
        raise UsageError(
            f"warmup_steps={warmup_steps}: it must be at least 0 and less than the "
            f"{total_steps} steps of the training"
        )
    if name in _PERIODIC and decay_steps < 1:
        raise UsageError(f"decay_steps={decay_steps}: schedule={name} needs at least 1")
    if not 0 < decay_factor <= 1:
        raise UsageError(f"decay_factor={decay_factor}: it must be above 0 and at most 1")
    if name == "milestones":
        decay = _milestones(learning_rate, total_steps - warmup_steps, decay_factor, milestones)
    else:
        decay = _decay(name, learning_rate, total_steps - warmup_steps, decay_steps, decay_factor)
    if not warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def _decay(name: str, rate: float, steps: int, period: int, factor: float) -> optax.Schedule:
    if name == "cosine":
        return optax.cosine_decay_schedule(rate, steps)
    if name == "linear":
        return optax.linear_schedule(rate, 0.0, steps)
    if name == "time":
        return _inverse(rate, period)
    if name == "robbins_monro":
        return _inverse(rate, 1)
    if name == "step":
        return _staircase(rate, period, factor)
    if name == "exponential":
        return optax.exponential_decay(rate, period, factor)
    return optax.constant_schedule(rate)


def _staircase(rate: float, period: int, factor: float) -> optax.Schedule:
    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        # In whole numbers: once compiled, a division of floats by a constant is a product by the
        # reciprocal, which falls short of the whole number at some multiples of the period. Optax's
        # staircase drops a step late there.
        return rate * factor ** (jnp.maximum(step, 0) // period)

    return schedule


def _milestones(
    rate: float, steps: int, factor: float, milestones: Sequence[float]
) -> optax.Schedule:
    ascending = list(milestones) == sorted(set(milestones))
    if not ascending or not all(0 < share < 1 for share in milestones):
        raise UsageError(
            f"milestones={','.join(map(str, milestones))}: they are shares of the training, "
            "ascending, above 0 and below 1"
        )
    # The first step has the whole rate, however short the training.
    drops = jnp.array([max(round(share * steps), 1) for share in milestones])

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        return rate * factor ** jnp.searchsorted(drops, step, side="right")

    return schedule


def _inverse(rate: float, period: int) -> optax.Schedule:
    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        # A warm-up also asks for the steps before 0, and drops the answer.
        return rate / (1.0 + jnp.maximum(step, 0) / period)

    return schedule
