"""Ways to judge and to show a trained model, one file each."""

from dlcore.evaluators.evaluator import Evaluator, Findings, Trained
from dlcore.evaluators.registry import choose, create, kind, names, register

__all__ = ["Evaluator", "Findings", "Trained", "choose", "create", "kind", "names", "register"]
