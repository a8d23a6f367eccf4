"""Learning regimes: one file each."""

# Importing a task's file registers it.
import dlcore.tasks.classification
import dlcore.tasks.gan
import dlcore.tasks.language_model
import dlcore.tasks.perceptron  # noqa: F401
from dlcore.tasks.base import Aux, Batch, Task, create, defaults, kind, names, register

__all__ = ["Aux", "Batch", "Task", "create", "defaults", "kind", "names", "register"]
