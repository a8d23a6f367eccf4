"""Optimizers over Optax: `builder.build`, `schedules.build`, groups of parameters, pruning."""

from dlcore.optim import builder, groups, pruning, schedules
from dlcore.optim.builder import Options

__all__ = ["Options", "builder", "groups", "pruning", "schedules"]
