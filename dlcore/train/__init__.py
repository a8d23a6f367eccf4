"""Trainings: a recipe becomes a session, and a session leaves a run.

    from dlcore.train import Recipe, Run, Session

    recipe = Recipe(name="mine", model="mlp", data="digits", learning_rate=0.1)
    summary = Session(recipe).run("runs/mine")
    trained = Run("runs/mine").trained()

The names are found when they are asked for, so that importing one module of this package does not
import all.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcore.train.recipe import Need, Phase, Recipe
    from dlcore.train.run import Run
    from dlcore.train.session import Session
    from dlcore.train.settings import Settings

_MODULES = {
    "Need": "recipe",
    "Phase": "recipe",
    "Recipe": "recipe",
    "Run": "run",
    "Session": "session",
    "Settings": "settings",
}

__all__ = ["Need", "Phase", "Recipe", "Run", "Session", "Settings"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
