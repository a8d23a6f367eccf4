"""Whether a classifier is as often right as it says.

Sources: the reliability diagram of DeGroot and Fienberg (1983), "The comparison and evaluation of
forecasters"; the expected calibration error of Naeini, Cooper and Hauskrecht (2015), "Obtaining
well calibrated probabilities using Bayesian binning", both as Guo, Pleiss, Sun and Weinberger
(2017), "On calibration of modern neural networks", section 2, have them for several classes.
"""

from typing import NamedTuple

import numpy as np


class Reliability(NamedTuple):
    """Answers, sorted by how sure the classifier was of them into bins of equal width.

    Attributes:
      confidence: the mean probability of the answers, float64 `[bins]`; NaN where there is none.
      accuracy: the share of right ones, float64 `[bins]`; NaN where there is none.
      answers: how many, int64 `[bins]`.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    answers: np.ndarray


def reliability(probability: np.ndarray, label: np.ndarray, bins: int = 15) -> Reliability:
    """How sure the answers are and how often they are right (Guo et al. 2017, equation 2).

    The answer is the likeliest class. Bin m of M holds the probabilities above (m - 1) / M up to
    and with m / M.

    Args:
      probability: what each class gets, `[examples, classes]`.
      label: the true class, int `[examples]`.
      bins: M.
    """
    highest = probability.max(-1).astype(np.float64)
    right = (probability.argmax(-1) == label) & ~np.isnan(highest)
    # By the edges themselves: a product with M would round some of them into the next bin.
    bin_of = np.searchsorted(np.arange(1, bins) / bins, highest, side="left")
    answers = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, weights, bins) for weights in (highest, right)]
    with np.errstate(invalid="ignore"):
        confidence, accuracy = (total / answers for total in sums)
    return Reliability(confidence, accuracy, answers)


def expected_calibration_error(measured: Reliability) -> float:
    """The distance between confidence and accuracy, averaged over the answers (equation 3)."""
    distance = np.abs(measured.accuracy - measured.confidence)
    return float(np.nansum(measured.answers * distance) / measured.answers.sum())
