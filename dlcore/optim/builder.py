"""The one function that builds an Optax chain, and the rules that it knows.

A step does this to a gradient, in this order: clipping, noise, the penalties (L2 and L1), the
adaptive rule or the velocity of gradients, decoupled decay, the learning rate, the velocity of
steps.

Let `g` be the gradient at the parameters `w`, `r` the step's learning rate and `rho` the momentum.
Momentum and Nesterov's method (1983) come in two forms each:

             velocity of gradients        velocity of steps
             v' = rho v + g               V' = rho V + r g
  momentum   "momentum": w - r v'         "heavy_ball": w - V'
  Nesterov   "nesterov":                  "nesterov_heavy_ball":
               w - r (g + rho v')           w - (r g + rho V')

They are equations 9 and 10 of Goyal et al. (2017). At a constant rate both are the same, with
`V = r v`; after a drop of the rate, the left column goes on at the new rate at once, the right one
first finishes its old steps. The left is what PyTorch and Optax do, the right is Polyak's (1964).
Deck P adds rho times the last step, which is -V, and deck D prints V with the rate on the gradient
inside it: both are the right column.

The parameters of both Nesterov rows are the point ahead where the gradient is taken (Bengio et
al., 2013, section 3.5). The iterate W of deck D, whose gradient is taken at `w = W - rho V`, is
`w + rho V`; `V = r v` at a constant rate, and in the right column the state's `TraceState`
holds -V.

- "sgd": `w - r g`;
- "adagrad": `w - r g / sqrt(s)`, `s = epsilon + sum of g^2 so far` (Duchi et al., 2011);
- "rmsprop": `w - r g / sqrt(s + epsilon)`, `s = rms_decay s + (1 - rms_decay) g^2` (Tieleman
  and Hinton, 2012);
- "adam": Kingma and Ba (2015), algorithm 1, whose moments are kept without their correction
  (deck P feeds the corrected ones back); AdamW with `decoupled_weight_decay` (Loshchilov and
  Hutter, 2019, algorithm 2);
- "all_together": the one equation of deck D, `W - V'` with
  `V' = r (g + weight_decay w + noise) / sqrt(s) + rho V` and all else taken at `w = W - rho V`;
  `s` is AdaGrad's, of the loss's gradient alone (`adagrad.scale_by_gradient_history`). Its
  parameters are `w`, as Nesterov's.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlcore import ranges
from dlcore.errors import UsageError
from dlcore.optim import groups as groups_lib
from dlcore.optim.adagrad import scale_by_gradient_history
from dlcore.optim.clipping import clip_by_average_norm
from dlcore.optim.noise import add_gradient_noise
from dlcore.optim.rate import scale_by_learning_rate
from dlcore.ranges import AboveZero, NotNegative, Rate

# Their velocity is a sum of steps, each taken at the rate of its own time.
VELOCITY_OF_STEPS = ("heavy_ball", "nesterov_heavy_ball", "all_together")
# Settings that hold for all parameters together, which no group has for itself.
CLIPPING = ("clip_norm", "clip_average_factor")
NAMES = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", *VELOCITY_OF_STEPS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The settings that an optimizer may have, whatever its rule; a recipe has them as fields.

    Attributes:
      momentum: decay of the velocity of momentum, nesterov, heavy_ball, nesterov_heavy_ball and
        all_together, at least 0 and below 1.
      beta1: decay of Adam's first moment, at least 0 and below 1.
      beta2: decay of Adam's second moment, at least 0 and below 1.
      rms_decay: decay of RMSProp's mean square, at least 0 and below 1.
      epsilon: what keeps the adaptive rules from dividing by zero, above 0; adam adds it to the
        root, the others add it under the root.
      weight_decay: strength of the L2 penalty: this times the parameters is added to the gradient;
        biases and the scales of normalization are left out.
      decoupled_weight_decay: add that penalty to the rule's direction instead of to the gradient
        (AdamW, for adam); not for heavy_ball, nesterov_heavy_ball and all_together.
      l1: strength of the L1 penalty: this times the sign of the parameters is added to the
        gradient; biases and the scales of normalization are left out.
      clip_norm: largest norm of the gradient over all parameters, to which a larger one is scaled
        down (Pascanu et al. 2013); 0 for no clipping.
      clip_average_factor: the same, as a multiple of the mean norm of the gradients so far; 0 for
        no clipping.
      gradient_noise: standard deviation of the noise on the gradient at step 0; 0 for none.
      gradient_noise_decay: at step t that deviation is divided by (1 + t) to this power; 0.275 is
        half the exponent of Neelakantan et al. (2015), which belongs to the variance.

    Raises:
      UsageError: a number that is out of its range, or two thresholds for clipping.
    """

    momentum: Rate = 0.9
    beta1: Rate = 0.9
    beta2: Rate = 0.999
    rms_decay: Rate = 0.9
    epsilon: AboveZero = 1e-8
    weight_decay: NotNegative = 0.0
    decoupled_weight_decay: bool = False
    l1: NotNegative = 0.0
    clip_norm: NotNegative = 0.0
    clip_average_factor: NotNegative = 0.0
    gradient_noise: NotNegative = 0.0
    gradient_noise_decay: NotNegative = 0.275

    def __post_init__(self) -> None:
        # A recipe, which has these among its fields, is checked whole when it is complete.
        ranges.check(self, Options)
        if self.clip_norm and self.clip_average_factor:
            raise UsageError(
                f"clip_norm={self.clip_norm} and clip_average_factor={self.clip_average_factor} "
                "are two thresholds for clipping: one of them must be 0"
            )


def build(
    optimizer: str,
    schedule: optax.Schedule,
    options: Options | None = None,
    seed: int = 0,
    groups: str = "",
) -> optax.GradientTransformation:
    """Builds an optimizer, of one rule or of one for each group of parameters.

    The rules are written out at the head of this file, the groups in `dlcore.optim.groups`. The
    gradients of all parameters that are not frozen are clipped together, by the norm over them all.

    Args:
      optimizer: one of `NAMES`.
      schedule: the learning rate by step, as `dlcore.optim.schedules` builds it.
      options: the settings of the rule and of what is done beside it; the defaults where missing.
      seed: seed of the noise.
      groups: the groups of parameters that differ from this, and how; empty for none.

    Raises:
      UsageError: an unknown name, decoupled decay where the velocity holds the rate, or a group
        that is not well formed.
    """
    options = options or Options()
    parts = _parts(optimizer, schedule, options, seed)
    parsed = groups_lib.parse(groups)
    if not parsed:
        return optax.chain(_clipping(options), *parts)
    members = {
        group.label: _member(optimizer, schedule, options, seed, group, stream)
        for stream, group in enumerate(parsed, start=1)
    }
    return optax.chain(
        groups_lib.drop_frozen_gradients(parsed),
        _clipping(options),
        optax.partition(
            {groups_lib.OTHERS: optax.chain(*parts), **members},
            functools.partial(groups_lib.labels, parsed),
        ),
    )


def _member(
    optimizer: str,
    schedule: optax.Schedule,
    options: Options,
    seed: int,
    group: groups_lib.Group,
    stream: int,
) -> optax.GradientTransformation:
    """What one group does to its clipped gradients."""
    if group.frozen:
        return groups_lib.freeze()
    settings: dict[str, Any] = dict(group.settings)
    rule = settings.pop("optimizer", optimizer)
    factor = settings.pop("rate", 1.0)
    try:
        _check_settings(settings)
        if not _is_number(factor) or not 0 < factor < math.inf:
            raise UsageError(
                f"rate={factor}: it multiplies the learning rate and must be a number above 0; "
                "write frozen for parameters that are to stay as they are"
            )
        own = dataclasses.replace(options, **settings)
        return optax.chain(*_parts(rule, lambda step: factor * schedule(step), own, seed, stream))
    except UsageError as error:
        raise UsageError(f"groups={group.pattern.pattern}:{error}") from error


def _check_settings(settings: Mapping[str, Any]) -> None:
    known = {field.name: field.default for field in dataclasses.fields(Options)}
    for name in CLIPPING:
        del known[name]
    for name, value in settings.items():
        if name in CLIPPING:
            raise UsageError(
                f"{name}={value}: all groups are clipped together: use the field {name} of the "
                "recipe"
            )
        if name not in known:
            names = ", ".join(("frozen", "rate", "optimizer", *known))
            raise UsageError(f"{name}={value}: a group has no such setting: it has {names}")
        is_flag = isinstance(known[name], bool)
        if is_flag != isinstance(value, bool) or not (is_flag or _is_number(value)):
            kind = "true or false" if is_flag else "a number"
            raise UsageError(f"{name}={value}: it must be {kind}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parts(
    optimizer: str, schedule: optax.Schedule, options: Options, seed: int, stream: int = 0
) -> tuple[optax.GradientTransformation, ...]:
    """All that is done to a clipped gradient, in order."""
    if optimizer not in NAMES:
        raise UsageError(f"optimizer={optimizer}: it is one of {', '.join(NAMES)}")
    if options.decoupled_weight_decay and optimizer in VELOCITY_OF_STEPS:
        raise UsageError(
            f"decoupled_weight_decay=true would become a part of the velocity of {optimizer}: "
            "set it to false, or take momentum or nesterov"
        )
    return (
        _rule(optimizer, options, _additions(options, seed, stream)),
        _decay(options) if options.decoupled_weight_decay else optax.identity(),
        scale_by_learning_rate(schedule),
        _velocity_of_steps(optimizer, options),
    )


def decay_mask(params: Any) -> Any:
    """Which parameters decay, a pytree of booleans: those of rank 2 and more, except biases."""

    def decays(path: Sequence[Any], parameter: Any) -> bool:
        # A layer with unshared weights has a bias for each position, hence of several axes.
        is_bias = bool(path) and getattr(path[-1], "key", None) == "bias"
        return jnp.ndim(parameter) > 1 and not is_bias

    return jax.tree_util.tree_map_with_path(decays, params)


def _clipping(options: Options) -> optax.GradientTransformation:
    if options.clip_norm:
        return optax.clip_by_global_norm(options.clip_norm)
    if options.clip_average_factor:
        return clip_by_average_norm(options.clip_average_factor)
    return optax.identity()


def _additions(options: Options, seed: int, stream: int) -> optax.GradientTransformation:
    """What is added to the gradient of the loss: noise, then the gradients of the penalties."""
    noise = penalty = optax.identity()
    if options.gradient_noise:
        noise = add_gradient_noise(
            options.gradient_noise, options.gradient_noise_decay, seed, stream
        )
    if options.l1:
        penalty = optax.masked(_add_signs(options.l1), decay_mask)
    decay = optax.identity() if options.decoupled_weight_decay else _decay(options)
    return optax.chain(noise, decay, penalty)


def _add_signs(scale: float) -> optax.GradientTransformation:
    def add(gradients: Any, params: Any) -> Any:
        return jax.tree.map(lambda g, w: g + scale * jnp.sign(w), gradients, params)

    return optax.stateless(add)


def _decay(options: Options) -> optax.GradientTransformation:
    if not options.weight_decay:
        return optax.identity()
    return optax.add_decayed_weights(options.weight_decay, mask=decay_mask)


def _rule(
    optimizer: str, options: Options, additions: optax.GradientTransformation
) -> optax.GradientTransformation:
    """What turns the gradient, with all that is added to it, into a direction."""
    if optimizer == "all_together":
        return scale_by_gradient_history(additions, options.epsilon)
    rules = {
        "momentum": optax.trace(options.momentum),
        "nesterov": optax.trace(options.momentum, nesterov=True),
        "adagrad": optax.scale_by_rss(initial_accumulator_value=0.0, eps=options.epsilon),
        "rmsprop": optax.scale_by_rms(options.rms_decay, options.epsilon),
        "adam": optax.scale_by_adam(options.beta1, options.beta2, options.epsilon),
    }
    return optax.chain(additions, rules.get(optimizer, optax.identity()))


def _velocity_of_steps(optimizer: str, options: Options) -> optax.GradientTransformation:
    if optimizer not in VELOCITY_OF_STEPS:
        return optax.identity()
    return optax.trace(options.momentum, nesterov=optimizer != "heavy_ball")
