"""The one function that builds an Optax chain, and the rules that it knows.

What a step does to a gradient, in this order: clipping, noise, the penalties (L2 and L1), the
adaptive rule or the velocity of gradients, decoupled decay, the learning rate, the velocity of
steps.

With `g` the gradient at the parameters `w`, `r` the step's learning rate and `rho` the momentum,
momentum and Nesterov's method (1983) are each there in two forms:

             velocity of gradients        velocity of steps
             v' = rho v + g               V' = rho V + r g
  momentum   "momentum": w - r v'         "heavy_ball": w - V'
  Nesterov   "nesterov":                  "nesterov_heavy_ball":
               w - r (g + rho v')           w - (r g + rho V')

They are equations 9 and 10 of Goyal et al. (2017): the same at a constant rate, where `V = r v`;
behind a drop of the rate the left goes on at the new rate at once, the right first finishes its old
steps. The left is PyTorch's and Optax's, the right Polyak's (1964). Deck P adds rho times the last
step, which is -V, and deck D prints V with the rate on the gradient inside it: both are the right
column.

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
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlcore.errors import UsageError
from dlcore.optim.adagrad import scale_by_gradient_history
from dlcore.optim.clipping import clip_by_average_norm
from dlcore.optim.noise import add_gradient_noise
from dlcore.optim.rate import scale_by_learning_rate

# Their velocity is a sum of steps, each with the rate that it was made at.
VELOCITY_OF_STEPS = ("heavy_ball", "nesterov_heavy_ball", "all_together")
NAMES = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", *VELOCITY_OF_STEPS)


@dataclasses.dataclass(frozen=True)
class Options:
    """What an optimizer may be told, whatever its rule.

    Attributes:
      momentum: weight of the old velocity in the new, in [0, 1).
      beta1: Adam's decay of the first moment, in [0, 1).
      beta2: Adam's decay of the second moment, in [0, 1).
      rms_decay: RMSProp's decay of the mean square, in [0, 1).
      epsilon: what keeps the adaptive rules from dividing by zero, above 0; beside the root in
        "adam", under it elsewhere.
      weight_decay: what is added to the gradient, times the parameters, at least 0. Biases and the
        scales of a normalisation are left out (`decay_mask`).
      decoupled_weight_decay: add it to the direction that the rule makes of the gradient instead;
        not for the rules in `VELOCITY_OF_STEPS`.
      l1: what is added to the gradient, times the sign of the same parameters, at least 0: the
        subgradient of `l1 * sum |w|`.
      clip_norm: scale a gradient whose norm over all parameters is larger down to it (Pascanu et
        al., 2013, algorithm 1); 0 for no clipping.
      clip_average_factor: the same with this times the mean norm of the gradients so far for a
        threshold, `clipping.clip_by_average_norm`; 0 for no clipping.
      gradient_noise: sigma0, standard deviation of the noise on the gradient at step 0; 0 for none.
      gradient_noise_decay: kappa; at step t the deviation is `sigma0 / (1 + t) ** kappa`. The
        default is the exponent of Neelakantan et al. (2015), 0.55 of the variance.

    Raises:
      UsageError: a number that is out of its range, or two thresholds for clipping.
    """

    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    rms_decay: float = 0.9
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    l1: float = 0.0
    clip_norm: float = 0.0
    clip_average_factor: float = 0.0
    gradient_noise: float = 0.0
    gradient_noise_decay: float = 0.275

    def __post_init__(self) -> None:
        decays = ("momentum", "beta1", "beta2", "rms_decay")
        self._require("at least 0 and below 1", lambda value: 0 <= value < 1, *decays)
        self._require("above 0", lambda value: 0 < value < math.inf, "epsilon")
        amounts = ("weight_decay", "l1", "clip_norm", "clip_average_factor")
        noise = ("gradient_noise", "gradient_noise_decay")
        self._require("at least 0", lambda value: 0 <= value < math.inf, *amounts, *noise)
        if self.clip_norm and self.clip_average_factor:
            raise UsageError(
                f"clip_norm is {self.clip_norm} and clip_average_factor is "
                f"{self.clip_average_factor}: one threshold for clipping has to be 0"
            )

    def _require(self, allowed: str, holds: Callable[[float], bool], *names: str) -> None:
        for name in names:
            if not holds(getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)}: it must be {allowed}")


def build(
    optimizer: str, schedule: optax.Schedule, options: Options | None = None, seed: int = 0
) -> optax.GradientTransformation:
    """Builds the optimizer of that name.

    The rules are written out at the head of this file.

    Args:
      optimizer: one of `NAMES`.
      schedule: the learning rate by step, as `dlcore.optim.schedules` builds it.
      options: of the rule and of what is done beside it; the defaults where missing.
      seed: of the noise.

    Raises:
      UsageError: an unknown name, or decoupled decay where the velocity holds the rate.
    """
    options = options or Options()
    if optimizer not in NAMES:
        raise UsageError(f"unknown optimizer {optimizer!r}: it is one of {', '.join(NAMES)}")
    if options.decoupled_weight_decay and optimizer in VELOCITY_OF_STEPS:
        raise UsageError(
            f"decoupled_weight_decay would become a part of the velocity of {optimizer}: "
            "set it to false, or take momentum or nesterov"
        )
    return optax.chain(
        _clipping(options),
        _rule(optimizer, options, _additions(options, seed)),
        _decay(options) if options.decoupled_weight_decay else optax.identity(),
        scale_by_learning_rate(schedule),
        _velocity_of_steps(optimizer, options),
    )


def decay_mask(params: Any) -> Any:
    """Which parameters decay: those of rank 2 and more that are no biases, a pytree of booleans."""

    def decays(path: Sequence[Any], parameter: Any) -> bool:
        # A layer with unshared weights has a bias for each place: of several axes, too.
        is_bias = bool(path) and getattr(path[-1], "key", None) == "bias"
        return jnp.ndim(parameter) > 1 and not is_bias

    return jax.tree_util.tree_map_with_path(decays, params)


def _clipping(options: Options) -> optax.GradientTransformation:
    if options.clip_norm:
        return optax.clip_by_global_norm(options.clip_norm)
    if options.clip_average_factor:
        return clip_by_average_norm(options.clip_average_factor)
    return optax.identity()


def _additions(options: Options, seed: int) -> optax.GradientTransformation:
    """What is added to the gradient of the loss: noise, then the gradients of the penalties."""
    noise = penalty = optax.identity()
    if options.gradient_noise:
        noise = add_gradient_noise(options.gradient_noise, options.gradient_noise_decay, seed)
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
    """What makes of the gradient, with all that is added to it, a direction."""
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
