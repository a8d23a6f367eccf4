"""Optimizers and learning-rate schedules over Optax: `builder.build` and `schedules.build`."""

from dlcore.optim import builder, schedules

__all__ = ["builder", "schedules"]
