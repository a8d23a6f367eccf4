<<<<<<< HEAD
"""Optimizers, schedules, groups of parameters and pruning over Optax."""
=======
"""Optimizers over Optax: `builder.build`, `schedules.build`, groups of parameters, pruning."""
>>>>>>> optim

from dlcore.optim import builder, groups, pruning, schedules
from dlcore.optim.builder import Options

__all__ = ["Options", "builder", "groups", "pruning", "schedules"]
