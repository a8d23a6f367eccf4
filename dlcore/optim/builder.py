"""The one function that builds an Optax chain.

What a step does to a gradient, in this order: clipping, noise, L2 decay, the optimizer's own rule,
decoupled decay, and the learning rate.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlcore.errors import UsageError
from dlcore.optim.noise import add_gradient_noise

NAMES = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam")


def build(
    optimizer: str,
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    beta1: float = 0.9,
    beta2: float = 0.999,
    rms_decay: float = 0.9,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    clip_norm: float | None = None,
    gradient_noise: float = 0.0,
    gradient_noise_decay: float = 0.55,
    seed: int = 0,
) -> optax.GradientTransformation:
    """Builds the optimizer of that name.

    With `g` the gradient and `r` the learning rate, a step moves the parameters `w` by

    - "sgd": `-r g`;
    - "momentum": `-r v` with `v = momentum v + g` (Polyak, 1964; the rate outside the velocity);
    - "nesterov": `-r (g + momentum v)` with the same `v`: Nesterov's (1983) step, written for the
      point where the gradient is taken (Bengio et al., 2013, section 3.5);
    - "adagrad": `-r g / sqrt(s + epsilon)` with `s = s + g^2` (Duchi et al., 2011);
    - "rmsprop": the same with `s = rms_decay s + (1 - rms_decay) g^2` (Tieleman and Hinton, 2012);
    - "adam": Kingma and Ba (2015), algorithm 1; AdamW with `decoupled_weight_decay`.

    Args:
      optimizer: one of `NAMES`.
      schedule: the learning rate by step, as `dlcore.optim.schedules` builds it.
      momentum: of "momentum" and "nesterov", in [0, 1).
      beta1: Adam's decay of the first moment, in [0, 1).
      beta2: Adam's decay of the second moment, in [0, 1).
      rms_decay: RMSProp's decay of the mean square, in [0, 1).
      epsilon: what keeps the adaptive rules from dividing by zero, above 0; under the root in
        "adagrad" and "rmsprop", beside it in "adam".
      weight_decay: what is added to `g`, times `w`, at least 0. Parameters of rank 0 and 1 (biases,
        the scales of a normalisation) are left out.
      decoupled_weight_decay: add it behind the rule instead, `-r weight_decay w` (Loshchilov and
        Hutter, 2019, algorithm 2).
      clip_norm: scale a gradient whose norm over all parameters is larger down to it (Pascanu et
        al., 2013, algorithm 1); None for no clipping.
      gradient_noise: variance of the Gaussian noise added to the gradient at step 0 (Neelakantan et
        al., 2015, equation 1); 0 for none.
      gradient_noise_decay: at step t the variance is divided by `(1 + t) ** gradient_noise_decay`.
      seed: of the noise.

    Raises:
      UsageError: an unknown name, or a number that is out of its range.
    """
    rules = {
        "sgd": optax.identity(),
        "momentum": optax.trace(momentum),
        "nesterov": optax.trace(momentum, nesterov=True),
        "adagrad": optax.scale_by_rss(initial_accumulator_value=0.0, eps=epsilon),
        "rmsprop": optax.scale_by_rms(rms_decay, epsilon),
        "adam": optax.scale_by_adam(beta1, beta2, epsilon),
    }
    if optimizer not in NAMES:
        raise UsageError(f"unknown optimizer {optimizer!r}: it is one of {', '.join(NAMES)}")
    _require(
        "at least 0 and below 1",
        lambda value: 0 <= value < 1,
        momentum=momentum,
        beta1=beta1,
        beta2=beta2,
        rms_decay=rms_decay,
    )
    _require("above 0", lambda value: 0 < value < math.inf, epsilon=epsilon, clip_norm=clip_norm)
    _require(
        "at least 0",
        lambda value: 0 <= value < math.inf,
        weight_decay=weight_decay,
        gradient_noise=gradient_noise,
        gradient_noise_decay=gradient_noise_decay,
    )
    decay = optax.add_decayed_weights(weight_decay, mask=decay_mask)
    chain = []
    if clip_norm is not None:
        chain.append(optax.clip_by_global_norm(clip_norm))
    if gradient_noise:
        chain.append(add_gradient_noise(gradient_noise, gradient_noise_decay, seed))
    if weight_decay and not decoupled_weight_decay:
        chain.append(decay)
    chain.append(rules[optimizer])
    if weight_decay and decoupled_weight_decay:
        chain.append(decay)
    return optax.chain(*chain, optax.scale_by_learning_rate(schedule))


def decay_mask(params: Any) -> Any:
    """Which parameters decay: those of rank 2 and more, as a pytree of booleans."""
    return jax.tree.map(lambda parameter: jnp.ndim(parameter) > 1, params)


def _require(allowed: str, holds: Callable[[float], bool], **numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not holds(value):
            raise UsageError(f"{name} is {value}: it must be {allowed}")
