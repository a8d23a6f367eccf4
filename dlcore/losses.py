"""Losses an example: pure functions, from logits where there are probabilities.

They compute in the type of what they get: tasks widen a model's outputs to float32 first.

What Optax has as the lectures define it is not defined again:

- categorical cross-entropy with a distribution: `optax.losses.softmax_cross_entropy` (with integer
  labels `cross_entropy` here: Optax's own subtracts two large numbers where the scores are large);
- label smoothing: `optax.losses.smooth_labels`;
- hinge of a margin, with targets -1 and 1, max(0, 1 - y s): `optax.losses.hinge_loss`;
- hinge of several classes in the form of Crammer and Singer (2001), max(0, 1 + the largest other
  score - the label's score): `optax.losses.multiclass_hinge_loss`. The form that sums over the
  other classes (Weston and Watkins 1999) is not here;
- connectionist temporal classification (Graves et al. 2006): `optax.losses.ctc_loss`.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

OutputLoss = Callable[[jax.Array, jax.Array], jax.Array]


def square(
    predictions: Float[Array, "batch outputs"], targets: Float[Array, "batch outputs"]
) -> Float[Array, " batch"]:
    """||y' - y||^2, as Krawiec, Laurent and Guillozet, and Deledalle print it."""
    return optax.losses.squared_error(predictions, targets).sum(-1)


def half_square(
    predictions: Float[Array, "batch outputs"], targets: Float[Array, "batch outputs"]
) -> Float[Array, " batch"]:
    """||y' - y||^2 / 2, as Perez prints it; its gradient is the error y' - y itself."""
    return optax.losses.l2_loss(predictions, targets).sum(-1)


def mean_square(
    predictions: Float[Array, "batch outputs"], targets: Float[Array, "batch outputs"]
) -> Float[Array, " batch"]:
    """||y' - y||^2 / m, for m outputs (Krawiec's MSE); with one output this is `square`."""
    return optax.losses.squared_error(predictions, targets).mean(-1)


def absolute(
    predictions: Float[Array, "batch outputs"], targets: Float[Array, "batch outputs"]
) -> Float[Array, " batch"]:
    """||y' - y||_1 (Krawiec); its minimum is the targets' median, not their mean."""
    return magnitude(predictions - targets).sum(-1)


def magnitude(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """|x|, with the gradient sign(x): 0 at 0, in the middle, where that of `jnp.abs` is 1."""
    return x * jnp.sign(x)


# What a task's `criterion` may be where outputs are compared with numbers.
OF_OUTPUTS: Mapping[str, OutputLoss] = {
    "square": square,
    "half_square": half_square,
    "mean_square": mean_square,
    "absolute": absolute,
}


def zero_one(
    scores: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """1 where the largest score is not the label's, else 0: its mean is the error rate.

    Where a score is NaN none is the largest: that is 1, too. Krawiec prints 1(argmax y' = c) under
    this name, which is the accuracy, 1 minus this.
    """
    wrong = (scores.argmax(-1) != labels) | jnp.isnan(scores).any(-1)
    return wrong.astype(jnp.float32)


def not_among(
    scores: Float[Array, "batch classes"], labels: Int[Array, " batch"], count: int
) -> Float[Array, " batch"]:
    """1 where the label's score is not one of the `count` largest, else 0: the top-k error.

    Of equal scores the first ones count, and where a score is NaN none does.
    """
    chosen = jax.lax.top_k(scores, count)[1]
    wrong = (chosen != labels[:, None]).all(-1) | jnp.isnan(scores).any(-1)
    return wrong.astype(jnp.float32)


def cross_entropy(
    scores: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """-log softmax(scores) of the label, in nats.

    The largest score is subtracted from all before anything else: what is left of a small loss then
    does not depend on how large the scores are.
    """
    log_probabilities = jax.nn.log_softmax(scores)
    return -jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]


def binary_cross_entropy(
    logits: Float[Array, "batch outputs"], targets: Float[Array, "batch outputs"]
) -> Float[Array, " batch"]:
    """-sum of y log p + (1 - y) log(1 - p) over the outputs, in nats, where p = sigmoid(logit).

    For several outputs: the negative log-likelihood of independent tags.

    Args:
      logits: log-odds of each output being 1; no p is formed, so that none is rounded to 0 or 1.
      targets: in 0..1.
    """
    return optax.losses.sigmoid_binary_cross_entropy(logits, targets).sum(-1)


def entropy(probabilities: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    """-sum of p log p, in nats, with 0 log 0 = 0; Laurent and Guillozet's print lacks the minus."""
    return jax.scipy.special.entr(probabilities).sum(-1)


def kl_divergence(
    logits: Float[Array, "*batch classes"], targets: Float[Array, "*batch classes"]
) -> Float[Array, "*batch"]:
    """KL(targets || softmax(logits)), in nats: cross-entropy less the targets' own entropy.

    It is 0 where the prediction is the target, as cross-entropy is only for certain targets.

    Args:
      logits: of the predicted distribution.
      targets: probabilities that sum to 1.
    """
    return optax.losses.kl_divergence(jax.nn.log_softmax(logits), targets)
