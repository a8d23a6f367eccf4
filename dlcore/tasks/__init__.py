"""Learning regimes: one file each."""

# Importing a task's file registers it.
import dlcore.tasks.classification
import dlcore.tasks.evolution
import dlcore.tasks.gan
import dlcore.tasks.language_model
import dlcore.tasks.multi_label
import dlcore.tasks.multitask
import dlcore.tasks.perceptron
import dlcore.tasks.regression  # noqa: F401
from dlcore.tasks.base import Aux, Batch, Task, create, defaults, kind, names, register

__all__ = ["Aux", "Batch", "Task", "create", "defaults", "kind", "names", "register"]
