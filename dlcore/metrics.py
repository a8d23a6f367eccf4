"""Metrics as sums that merge.

A metric is a small pytree whose leaves are all sums, so that merging across batches or devices is
addition and nothing is ever averaged twice (the states of clu.metrics, without its dependencies).
The value is computed once, on the host, at the end.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Mean:
    """An average over examples (or tokens): `total / count`, NaN where nothing was counted."""

    total: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, values: jax.Array, mask: jax.Array | None = None) -> "Mean":
        """Sums `values` where `mask` (same shape, 0 or 1; everything by default) is set."""
        values = jnp.asarray(values, jnp.float32)
        if mask is None:
            return cls(values.sum(), jnp.asarray(values.size, jnp.float32))
        # `where`, not a product: a padded row may hold anything, NaN included.
        return cls(jnp.where(mask > 0, values, 0.0).sum(), mask.astype(jnp.float32).sum())

    def compute(self) -> float:
        """The average, as a Python float."""
        count = float(self.count)
        return float(self.total) / count if count else float("nan")


@flax.struct.dataclass
class ExponentialOfMean(Mean):
    """The exponential of an average, as perplexity is of the mean cross-entropy in nats."""

    def compute(self) -> float:
        """exp(total / count), as a Python float."""
        return float(np.exp(super().compute()))


@flax.struct.dataclass
class Sum:
    """A plain sum: a count of errors, a confusion matrix."""

    total: jax.Array

    def compute(self) -> Any:
        """The sum: a Python float for a scalar, a NumPy array otherwise."""
        total = np.asarray(self.total)
        return float(total) if total.ndim == 0 else total


@flax.struct.dataclass
class RSquared:
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

    def compute(self) -> float:
        """The mean over the outputs; NaN where a target does not vary."""
        count = np.float64(self.count)
        with np.errstate(divide="ignore", invalid="ignore"):
            variation = self.squares - np.square(np.float64(self.targets)) / count
            share = np.where(variation > 0, self.errors / variation, np.nan)
        return float(np.mean(1 - share))


Metrics = Mapping[str, Mean | Sum | RSquared]


def merge(first: Metrics, second: Metrics) -> Metrics:
    """The metrics of both sets of examples together."""
    return jax.tree.map(jnp.add, first, second)


def compute(metrics: Metrics) -> dict[str, Any]:
    """Every metric's value on the host: floats, and NumPy arrays where a metric is a matrix."""
    return {name: metric.compute() for name, metric in jax.device_get(dict(metrics)).items()}
