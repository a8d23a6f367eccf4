"""The losses of the lectures as curves: of a margin, of an error, of a probability."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlcore import losses, plots
from dlcore.analysis import study
from dlcore.expectation import Expectation
from dlcore.ranges import AboveZero, Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SMOOTHINGS = (0.0, 0.1, 0.3)
Curves = dict[str, jax.Array]
# What stands in for the zero-one loss, whose gradient is zero.
_SURROGATES = ("hinge", "cross-entropy in bits", "square of 1 - margin")


@dataclasses.dataclass(frozen=True)
class Losses(study.Study):
    """How each loss grows as an answer gets worse, and where it is least.

    A margin is the score of the right one of two classes less that of the other. Cross-entropy of a
    prediction q with a true distribution (p, 1 - p) is its entropy, however good q is, plus the KL
    divergence, which vanishes at q = p.

    Attributes:
      limit: margins and errors go from -limit to limit.
      truth: probability p of the first of two outcomes.
      points: points on a curve.
    """

    limit: AboveZero = 3.0
    truth: Annotated[float, Range(above=0, below=1)] = 0.7
    points: Annotated[int, Range(least=2)] = 301

    expectations = (
        *study.near("likeliest_prediction", 0.7, 0.005, "Gibbs's inequality: the truth"),
        Expectation("decomposition_error", 1e-5, "min", "L: entropy + divergence, to rounding"),
        Expectation("least_excess_of_surrogates", -1e-6, "max", "never below the zero-one loss"),
    )

    def run(self) -> study.Numbers:
        """Measures: every curve, and the prediction with the least cross-entropy.

        `decomposition_error` is the largest difference of the cross-entropy from entropy and
        divergence added up, `least_excess_of_surrogates` the least by which a loss of a margin
        exceeds the zero-one loss.
        """
        x = np.linspace(-self.limit, self.limit, self.points, dtype=np.float32)
        # The ends, where a logit is infinite, are left out.
        q = np.linspace(0, 1, self.points + 2, dtype=np.float32)[1:-1]
        by_margin, by_error, by_probability = jax.device_get(_curves(x, q, self.truth))
        parts = by_probability["entropy of the truth"] + by_probability["KL divergence"]
        excess = [(by_margin[name] - by_margin["zero-one"]).min() for name in _SURROGATES]
        return {
            "x": x,
            "q": q,
            **by_margin,
            **by_error,
            **by_probability,
            "likeliest_prediction": float(q[by_probability["cross-entropy"].argmin()]),
            "decomposition_error": np.abs(by_probability["cross-entropy"] - parts).max(),
            "least_excess_of_surrogates": min(excess),
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """Four panels: margins, label smoothing, errors, probabilities."""

        def panel(title: str, x: str, names: Sequence[str], label: str) -> plots.Panel:
            lines = [plots.Line(numbers[x], numbers[name], name) for name in names]
            return plots.Panel(title, lines, label, "loss")

        smoothed = [f"smoothing {smoothing:g}" for smoothing in _SMOOTHINGS]
        outcomes = ["entropy of the truth", "cross-entropy", "KL divergence"]
        return plots.line_panels(
            [
                panel("Of a margin", "x", ["zero-one", *_SURROGATES], "margin"),
                panel("Label smoothing", "x", smoothed, "margin"),
                panel("Of an error", "x", ["square", "half square", "absolute"], "error"),
                panel(f"Truth ({self.truth:g}, {1 - self.truth:g})", "q", outcomes, "prediction q"),
            ],
            columns=2,
        )


@jax.jit
def _curves(x: jax.Array, q: jax.Array, truth: float) -> tuple[Curves, Curves, Curves]:
    return _by_margin(x), _by_error(x), _by_probability(q, truth)


def _by_margin(margin: jax.Array) -> Curves:
    scores = jnp.stack([jnp.zeros_like(margin), margin], axis=1)
    labels = jnp.ones(len(margin), jnp.int32)
    one_hot = jnp.eye(2)[labels]
    nats = {
        f"smoothing {smoothing:g}": optax.losses.softmax_cross_entropy(
            scores, optax.losses.smooth_labels(one_hot, smoothing)
        )
        for smoothing in _SMOOTHINGS
    }
    return {
        # A tie is the first class's, which is wrong here.
        "zero-one": losses.zero_one(scores, labels),
        "hinge": optax.losses.multiclass_hinge_loss(scores, labels),
        "cross-entropy in bits": nats["smoothing 0"] / jnp.log(2.0),
        "square of 1 - margin": losses.square(margin[:, None], jnp.ones((len(margin), 1))),
        **nats,
    }


def _by_error(error: jax.Array) -> Curves:
    outputs, targets = error[:, None], jnp.zeros((len(error), 1))
    return {
        "square": losses.square(outputs, targets),
        "half square": losses.half_square(outputs, targets),
        "absolute": losses.absolute(outputs, targets),
    }


def _by_probability(q: jax.Array, truth: float) -> Curves:
    logits = jnp.log(jnp.stack([q, 1 - q], axis=1))
    p = jnp.broadcast_to(jnp.array([truth, 1 - truth]), logits.shape)
    return {
        "entropy of the truth": losses.entropy(p),
        "cross-entropy": optax.losses.softmax_cross_entropy(logits, p),
        "KL divergence": losses.kl_divergence(logits, p),
    }


study.register("losses", Losses)
