"""Optimizers, schedules, groups of parameters and pruning over Optax."""

from dlcore.optim import builder, groups, pruning, schedules
from dlcore.optim.builder import Options

__all__ = ["Options", "builder", "groups", "pruning", "schedules"]
