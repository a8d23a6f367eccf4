"""Optimizers, schedules and pruning over Optax: `builder.build`, `schedules.build`, `pruning`."""

from dlcore.optim import builder, pruning, schedules

__all__ = ["builder", "pruning", "schedules"]
