"""Metrics that merge.

A metric is a small pytree. It is made of a batch, reduced over the devices that share the batch,
merged with those of other batches, and computed once, on the host, at the end; so nothing is ever
averaged twice. Most are sums (`SumMetric`): a training step records nothing else. An evaluation
may also collect rows (`Rows`) for a score that is no sum, such as an average precision.
"""

import abc
from collections.abc import Mapping
from typing import Any, Self, override

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from dlcore import parallel


class Metric(flax.struct.PyTreeNode, abc.ABC):
    """What a metric has to do; a subclass is a frozen dataclass of arrays, and a pytree."""

    @abc.abstractmethod
    def reduce(self) -> Self:
        """The metric of the whole batch, given that of one device's share; inside the step."""

    @abc.abstractmethod
    def merge(self, other: Self) -> Self:
        """The metric of both sets of examples together; on the host, or inside the step."""

    @abc.abstractmethod
    def compute(self) -> Any:
        """The value, on the host: a Python float, or a NumPy array."""


class SumMetric(Metric):
    """A metric whose arrays are all sums over examples."""

    @override
    def reduce(self) -> Self:
        return parallel.psum(self)

    @override
    def merge(self, other: Self) -> Self:
        return jax.tree.map(lambda one, two: one + two, self, other)


class Mean(SumMetric):
    """An average over examples (or tokens): `total / count`, NaN where nothing was counted."""

    total: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, values: jax.Array, mask: jax.Array | None = None) -> Self:
        """Sums `values` where `mask` (same shape, 0 or 1; everything by default) is set."""
        values = jnp.asarray(values, jnp.float32)
        if mask is None:
            return cls(values.sum(), jnp.asarray(values.size, jnp.float32))
        # `where`, not a product: a padded row may hold anything, NaN included.
        return cls(jnp.where(mask > 0, values, 0.0).sum(), mask.astype(jnp.float32).sum())

    @override
    def compute(self) -> float:
        count = float(self.count)
        return float(self.total) / count if count else float("nan")


class ReplicatedMean(Mean):
    """An average of what every device has already, such as a gradient's norm: it counts once."""

    @override
    def reduce(self) -> Self:
        return self


class ExponentialOfMean(Mean):
    """The exponential of an average, as perplexity is of the mean cross-entropy in nats."""

    @override
    def compute(self) -> float:
        return float(np.exp(super().compute()))


class Sum(SumMetric):
    """A plain sum: a count of errors, a confusion matrix."""

    total: jax.Array

    @override
    def compute(self) -> Any:
        total = np.asarray(self.total)
        return float(total) if total.ndim == 0 else total


class NanPredictions(Sum):
    """How many predictions are NaN: `compute` tells it only where there are any."""

    @classmethod
    def of(cls, outputs: Any, mask: jax.Array) -> Self:
        """Counts the predictions where `mask` is set.

        Args:
          outputs: a pytree of arrays `[*mask.shape, ...]`; a prediction is one that holds NaN
            anywhere.
          mask: 1 where a prediction counts, else 0.
        """
        axes = mask.ndim
        nan = jnp.zeros(mask.shape, bool)
        for array in jax.tree.leaves(outputs):
            nan |= jnp.isnan(array).any(tuple(range(axes, array.ndim)))
        return cls((nan & (mask > 0)).sum().astype(jnp.float32))


class RSquared(SumMetric):
    """The coefficient of determination: 1 - sum of squared errors / the targets' own variation.

    Each field is a sum over the examples, `[outputs]` but for the count. The variation is a
    difference of sums in float32: it is lost where the targets' mean is a thousand deviations.
    """

    errors: jax.Array
    targets: jax.Array
    squares: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, predictions: jax.Array, targets: jax.Array, mask: jax.Array) -> "RSquared":
        """Sums over the rows of `[batch, outputs]` where `mask` `[batch]` is set."""
        real = mask[:, None] > 0

        def total(values: jax.Array) -> jax.Array:
            return jnp.where(real, values, 0.0).sum(0)

        errors = total(jnp.square(predictions - targets))
        return cls(errors, total(targets), total(jnp.square(targets)), mask.sum())

    @override
    def compute(self) -> float:
        """The mean over the outputs; NaN where a target does not vary."""
        count = np.float64(self.count)
        with np.errstate(divide="ignore", invalid="ignore"):
            variation = self.squares - np.square(np.float64(self.targets)) / count
            share = np.where(variation > 0, self.errors / variation, np.nan)
        return float(np.mean(1 - share))


class Rows(Metric):
    """Rows that are collected over an evaluation, in the order of the examples.

    A score that is no sum is a subclass whose `compute` makes a number of `self.real()`.

    Attributes:
      values: a pytree of arrays `[batch, ...]`.
      mask: 1 where a row is real and 0 where it is padding, `[batch]`.
    """

    values: Any
    mask: jax.Array

    @override
    def reduce(self) -> Self:
        return parallel.all_gather(self)

    @override
    def merge(self, other: Self) -> Self:
        return jax.tree.map(lambda one, two: np.concatenate([one, two]), self, other)

    def real(self) -> Any:
        """The rows that are no padding, NumPy arrays `[examples, ...]`."""
        kept = np.asarray(self.mask) > 0
        return jax.tree.map(lambda array: np.asarray(array)[kept], self.values)

    @override
    def compute(self) -> Any:
        return self.real()


Metrics = Mapping[str, Metric]


def reduce(metrics: Metrics) -> dict[str, Any]:
    """The metrics of the whole batch, given those of one device's share."""
    return {name: metric.reduce() for name, metric in metrics.items()}


def merge(first: Metrics, second: Metrics) -> dict[str, Any]:
    """The metrics of both sets of examples together."""
    return {name: metric.merge(second[name]) for name, metric in first.items()}


def compute(metrics: Metrics) -> dict[str, Any]:
    """Every metric's value on the host: floats, and NumPy arrays where a metric is no number.

    `NanPredictions` are among them only where there are any.
    """
    values = {}
    for name, metric in jax.device_get(dict(metrics)).items():
        value = metric.compute()
        if not isinstance(metric, NanPredictions) or value:
            values[name] = value
    return values
